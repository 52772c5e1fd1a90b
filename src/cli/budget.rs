//! `dpsyn budget`: the privacy budget of a data set, which its owner keeps.

use super::args::{BudgetArguments, BudgetCommand};
use super::core_dumps;
use super::error::CliError;
use super::output::print;
use crate::dataset::content_fingerprint;
use crate::pe::PeError;
use crate::privacy::{Budget, BudgetTerms, EarlierRun, PrivacyError};

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
            let images = content_fingerprint(&init.images).map_err(PeError::from)?;
            Budget::create(file, limit, &images).map_err(PeError::from)?
        }
        BudgetCommand::AddImages { images } => {
            let budget = Budget::at(file);
            let images = content_fingerprint(images).map_err(PeError::from)?;
            budget.add_images(&images).map_err(PeError::from)?;
            budget
        }
        BudgetCommand::Close { folder } => {
            let budget = Budget::at(file);
            let runs = EarlierRun::read(folder).map_err(PeError::from)?;
            // The run itself is the last one; those before it are the ones that it carries.
            let Some(run) = runs.last() else {
                let message = format!(
                    "cannot close {}: expected the result folder of a run with charges",
                    folder.display()
                );
                return Err(PeError::from(PrivacyError::Budget {
                    path: file.clone(),
                    message,
                })
                .into());
            };
            let closed = budget.close(&run.run_id, run.releases);
            closed.map_err(PeError::from)?;
            budget
        }
        BudgetCommand::Show => Budget::at(file),
    };
    for line in budget.describe().map_err(PeError::from)? {
        print(&line);
    }
    Ok(())
}
