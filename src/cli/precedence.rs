//! Decides between several values: flags override the environment.

use anyhow::bail;
use clap::ArgMatches;
use clap::parser::ValueSource;

/// Where values came from: the command line or the environment.
pub struct Sources<'a>(pub &'a ArgMatches);

impl Sources<'_> {
    pub fn typed(&self, flag: &str) -> bool {
        self.0.value_source(flag) == Some(ValueSource::CommandLine)
    }

    pub fn inherited(&self, flag: &str) -> bool {
        // A switch may be set to 0 in the environment.
        let off = matches!(self.0.try_get_one::<bool>(flag), Ok(Some(false)));
        self.0.value_source(flag) == Some(ValueSource::EnvVariable) && !off
    }

    /// Chooses between flags that exclude each other. None if none of them was given.
    ///
    /// # Errors
    /// Two were given on the command line, or none there and two in the environment.
    pub fn choose<'f>(&self, flags: &[&'f str]) -> anyhow::Result<Option<&'f str>> {
        let typed: Vec<_> = flags.iter().filter(|flag| self.typed(flag)).collect();
        let environment: Vec<_> = flags.iter().filter(|flag| self.inherited(flag)).collect();

        match (typed.as_slice(), environment.as_slice()) {
            ([], []) => Ok(None),
            ([one], _) | ([], [one]) => Ok(Some(one)),
            ([one, two, ..], _) => {
                bail!("{} and {} cannot be used together; leave one of them out", flag_name(one), flag_name(two))
            }
            ([], [one, two, ..]) => bail!(
                "{} and {} in the environment cannot be used together; unset one of them",
                variable_name(one),
                variable_name(two)
            ),
        }
    }
}

pub fn flag_name(flag: &str) -> String {
    match flag {
        "password" => "-a".to_owned(),
        "db" => "-n".to_owned(),
        flag => format!("--{}", flag.replace('_', "-")),
    }
}

pub fn variable_name(flag: &str) -> String {
    match flag {
        "password" => "REDISCLI_AUTH".to_owned(),
        flag => format!("REDIS_HEALTH_{}", flag.to_uppercase()),
    }
}
