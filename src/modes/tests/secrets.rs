//! No value that contains a password shows it in its debug output, which a panic would print.

use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::auth::credentials::CredentialsProvider;
use crate::cli::args::{Cli, Command, Deferred};
use crate::cli::plan;
use crate::cli::precedence::Sources;
use crate::probe::checker::Checker;
use crate::probe::connection::ConnectOptions;
use crate::probe::resolve::Resolver;
use crate::probe::server_info::ServerInfo;

const SECRET: &str = "hunter2-s3cret";

#[test]
fn no_value_with_the_password_prints_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for login in [
        vec!["-a", SECRET],
        vec!["-u", "redis://ops:hunter2-s3cret@h/3"],
        vec!["-u", "rediss://hunter2-s3cret@h"],
        vec!["--password-command", "echo hunter2-s3cret"],
    ] {
        for mode in ["dbs", "cycles"] {
            let matches = Cli::command().get_matches_from([&["redis-health", mode], &login[..]].concat());
            let cli = Cli::from_arg_matches(&matches).unwrap();
            let sources = Sources(matches.subcommand().unwrap().1);
            let (shown, plan) = match cli.command {
                Command::Dbs(Deferred(args)) => {
                    let plan = plan::dbs(args, &sources).unwrap();
                    (format!("{plan:?}{plan:#?}"), plan.plan)
                }
                Command::Cycles(Deferred(args)) => {
                    let plan = plan::cycles(args, &sources).unwrap();
                    (format!("{plan:?}{plan:#?}"), plan.plan)
                }
                Command::Report(_) => unreachable!(),
            };
            let (_, source) = plan.credentials.clone().unwrap();
            let provider =
                runtime.block_on(CredentialsProvider::fetch(plan.credentials.clone(), Arc::new(|_: &str| {}))).unwrap();
            assert_eq!(provider.as_ref().unwrap().credentials().password.reveal(), SECRET);
            let checker = Checker {
                connect: ConnectOptions { endpoint: plan.endpoint.clone(), tls: None, credentials: provider.clone() },
                resolver: Resolver::new(),
                databases: plan.databases,
                timeout: plan.timeout,
                deadline: plan.deadline,
                server_info: ServerInfo::new(true),
                expect_role: None,
                canary: None,
                in_cluster: false,
                settled: 0.into(),
                highest: 0.into(),
            };
            for text in [
                shown,
                format!("{plan:?}"),
                format!("{source:?}{source}"),
                format!("{provider:?}{:?}", provider.as_ref().unwrap().credentials()),
                format!("{:?}", checker.connect),
                format!("{checker:#?}"),
            ] {
                assert!(!text.contains("hunter2"), "{text}");
            }
        }
    }
}
