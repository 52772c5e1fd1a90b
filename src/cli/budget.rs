//! `dpsyn budget`: the privacy budget of a data set, which its owner keeps.

use std::path::Path;

use super::args::{BudgetArguments, BudgetCommand, LayoutArguments};
use super::core_dumps;
use super::error::CliError;
use super::output::print;
use crate::artifacts::RunDir;
use crate::dataset::content_fingerprint;
use crate::images::DataConfig;
use crate::pe::PeError;
use crate::privacy::{AbandonedRun, Budget, BudgetTerms, PrivacyError};

/// Returns the section `[data]` of images, of which a budget needs the place only.
fn data(path: &Path, layout: &LayoutArguments) -> DataConfig {
    DataConfig::with_layout(path, 1, &layout.layout())
}

/// Executes `dpsyn budget`.
pub(super) fn run(arguments: &BudgetArguments) -> Result<(), CliError> {
    core_dumps::forbid()?;
    let file = &arguments.file;
    let budget = match &arguments.command {
        BudgetCommand::Init(init) => {
            let limit = BudgetTerms {
                epsilon: init.epsilon,
                delta: init.delta,
                adjacency: init.adjacency.unwrap_or_default(),
                unit: init.unit.unwrap_or_default(),
            };
            let images =
                content_fingerprint(&data(&init.images, &init.layout)).map_err(PeError::from)?;
            Budget::create(file, limit, &images).map_err(PeError::from)?
        }
        BudgetCommand::AddImages { images, layout } => {
            let budget = Budget::at(file);
            let images = content_fingerprint(&data(images, layout)).map_err(PeError::from)?;
            budget.add_images(&images).map_err(PeError::from)?;
            budget
        }
        BudgetCommand::Close { folder } => {
            let budget = Budget::at(file);
            close(&budget, file, folder)?;
            budget
        }
        BudgetCommand::Show => Budget::at(file),
    };
    for line in budget.describe().map_err(PeError::from)? {
        print(&line);
    }
    Ok(())
}

/// Closes the run in `folder`, whose ledger stays locked meanwhile.
fn close(budget: &Budget, file: &Path, folder: &Path) -> Result<(), CliError> {
    let private = RunDir::of_finished(folder).private();
    let Some(run) = AbandonedRun::open(folder, &private)? else {
        let message = format!(
            "does not know {}: expected the result folder of a run, with its ledger",
            folder.display()
        );
        let path = file.to_owned();
        return Err(PrivacyError::Budget { path, message }.into());
    };
    let closed = budget.close_abandoned(&run);
    // The ledger was read, and file systems may record that.
    let timed = RunDir::set_times_of_run(folder);
    print(&closed?);
    Ok(timed?)
}
