//! The real binary, end to end, on a tiny model and a few private images.

mod support;

#[path = "attacks/mod.rs"]
mod attacks;
#[path = "cli/audit.rs"]
mod audit;
#[path = "cli/budget.rs"]
mod budget;
#[path = "cli/configs.rs"]
mod configs;
#[path = "cli/core_dumps.rs"]
#[cfg(target_os = "linux")]
mod core_dumps;
#[path = "cli/dry_runs.rs"]
mod dry_runs;
#[path = "cli/eval.rs"]
mod eval;
#[path = "cli/evaluation.rs"]
mod evaluation;
#[path = "cli/extend.rs"]
mod extend;
#[path = "cli/faults.rs"]
mod faults;
#[path = "cli/fetch.rs"]
mod fetch;
#[path = "cli/fetch_faults.rs"]
mod fetch_faults;
#[cfg(feature = "hub")]
#[path = "cli/fetch_hub.rs"]
mod fetch_hub;
#[path = "cli/fetch_offline.rs"]
mod fetch_offline;
#[path = "cli/hosted.rs"]
mod hosted;
#[path = "cli/hosted_faults.rs"]
mod hosted_faults;
#[path = "cli/identities.rs"]
mod identities;
#[path = "cli/image_pool.rs"]
mod image_pool;
#[path = "cli/kill.rs"]
mod kill;
#[path = "cli/layouts.rs"]
mod layouts;
#[path = "cli/leaks.rs"]
mod leaks;
#[path = "cli/memory.rs"]
#[cfg(target_os = "linux")]
mod memory;
#[path = "cli/noise_schedule.rs"]
mod noise_schedule;
#[cfg(unix)]
#[path = "cli/program.rs"]
mod program;
#[path = "cli/refusals.rs"]
mod refusals;
#[path = "cli/resume.rs"]
mod resume;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/snapshots.rs"]
mod snapshots;
#[path = "cli/sockets.rs"]
#[cfg(target_os = "linux")]
mod sockets;
#[path = "cli/sprites.rs"]
mod sprites;
#[path = "cli/stable_diffusion.rs"]
mod stable_diffusion;
#[path = "cli/stable_diffusion_memory.rs"]
#[cfg(target_os = "linux")]
mod stable_diffusion_memory;
#[path = "cli/text.rs"]
mod text;
#[path = "cli/timestamps.rs"]
mod timestamps;
#[path = "cli/vote_memory.rs"]
#[cfg(target_os = "linux")]
mod vote_memory;
#[path = "cli/vote_rules.rs"]
mod vote_rules;
