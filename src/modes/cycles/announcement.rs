//! The first line of a run: what is checked, how often, and until when.

use std::time::Duration;

use crate::cli::plan::CyclesPlan;
use crate::model::databases::Databases;
use crate::model::duration::seconds;

/// Describes the plan of a run in one line.
pub fn announcement(CyclesPlan { plan, schedule, held, .. }: &CyclesPlan) -> String {
    let what = match plan.databases {
        Databases::One(db) => format!("DB {db}"),
        Databases::ZeroWithoutSelect => "DB 0 without SELECT".to_owned(),
        Databases::UpTo(last) => format!("DB 0 to {last}"),
        Databases::Auto => "all databases".to_owned(),
    };

    let cycles = match schedule.cycles {
        1 => format!("1 cycle of {} s", seconds(schedule.run_duration)),
        n => format!(
            "{n} cycles of {} s with breaks of {} s",
            seconds(schedule.run_duration),
            seconds(schedule.break_duration)
        ),
    };
    let total = schedule.total().unwrap_or(Duration::MAX);
    let end = plan.clock.after(total).map_or_else(String::new, |end| format!(", until {end}"));

    let endpoint = &plan.endpoint;
    let (whose, each) = match (plan.cluster, *held) {
        (true, _) => (format!("every node of the cluster at {endpoint}"), " of each"),
        (false, true) => (format!("{endpoint}, over fresh connections and a persistent one,"), " over each"),
        (false, false) => (endpoint.to_string(), ""),
    };

    let checks = schedule.checks_per_cycle() * u128::from(schedule.cycles);
    let checks = if checks == 1 { "1 check".to_owned() } else { format!("{checks} checks") };
    format!(
        "Checking {what} of {whose} every {} s: {cycles}, {checks}{each} in all{end}",
        seconds(schedule.check_interval),
    )
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::cli::args::{Cli, Command, Deferred};
    use crate::cli::precedence::Sources;

    #[test]
    fn one_check_is_singular() {
        let announced = |lasts: &str| {
            let words = ["redis-health", "cycles", "--cycles", "1", "--check-interval", "1", "--run-duration", lasts];
            let matches = Cli::command().get_matches_from(words);
            let Command::Cycles(Deferred(args)) = Cli::from_arg_matches(&matches).unwrap().command else {
                unreachable!()
            };
            let plan = crate::cli::plan::cycles(args, &Sources(matches.subcommand().unwrap().1)).unwrap();
            announcement(&plan)
        };
        assert!(announced("1").contains(": 1 cycle of 1 s, 1 check in all"), "{}", announced("1"));
        assert!(announced("2").contains(": 1 cycle of 2 s, 2 checks in all"), "{}", announced("2"));
    }
}
