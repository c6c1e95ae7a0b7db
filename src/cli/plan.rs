//! Validates the flags once, and converts them to a plan.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::auth::password::PasswordSource;
use crate::cli::args;
use crate::cli::precedence::{Sources, flag_name, variable_name};
use crate::cli::units;
use crate::cli::uri::{self, Uri};
use crate::log::read::Range;
use crate::log::write::LogFiles;
use crate::log::write::rotate::Rotate;
use crate::model::clock::Clock;
use crate::model::databases::Databases;
use crate::model::endpoint::Endpoint;
use crate::model::schedule::Schedule;
use crate::model::secret::{REDACTED, Secret, might_be_secret};
use crate::model::server::Role;
use crate::model::text::Printable;
use crate::probe::tls;

/// The longest run: far longer than any upgrade, and well within the range of dates.
const LONGEST_RUN: Duration = Duration::from_secs(10 * 366 * 86_400);

/// The shortest interval between checks. Even a fast check takes a large part of a millisecond.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// The part of the plan that `dbs` and `cycles` share.
#[derive(Clone, Debug)]
pub struct Plan {
    pub endpoint: Endpoint,
    /// The TLS settings, if TLS is used.
    pub tls: Option<tls::Settings>,
    /// The ACL user, if any, and where the password comes from.
    pub credentials: Option<(Option<String>, PasswordSource)>,
    pub databases: Databases,
    /// Every node of a cluster is checked, not only the endpoint.
    pub cluster: bool,
    /// The role that the server must have.
    pub expect_role: Option<Role>,
    /// Each check includes a canary write.
    pub canary: bool,
    pub timeout: Duration,
    /// The time limit for one pass over several databases.
    pub deadline: Duration,
    pub clock: Clock,
    pub log: LogFiles,
    /// The file for Prometheus metrics.
    pub metrics: Option<PathBuf>,
    pub verbose: bool,
    /// The folder of the diagnostic trace.
    pub trace_dir: Option<PathBuf>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// The plan of one scan.
#[derive(Clone, Debug)]
pub struct DbsPlan {
    pub plan: Plan,
    pub quiet: bool,
    /// Standard output gets one JSON document and nothing else.
    pub json: bool,
}

/// The plan of checks on a schedule.
#[derive(Clone, Debug)]
pub struct CyclesPlan {
    pub plan: Plan,
    pub schedule: Schedule,
    /// A persistent connection is checked too, on the same schedule.
    pub held: bool,
    /// Standard output gets one JSON document and nothing else.
    pub json: bool,
}

/// The plan of `dbs`.
///
/// # Errors
/// Flags that cannot be used together, or an invalid URI. The text names them and the remedy.
pub fn dbs(args: args::Dbs, sources: &Sources<'_>) -> anyhow::Result<DbsPlan> {
    let millis = args.common.millis;
    let json = args.common.json;
    let plan = plan(args.connection, args.common, args.max_db, Databases::UpTo(15), millis, sources)?;
    let shown = sources.choose(&["json", "quiet"])?;
    Ok(DbsPlan { plan, quiet: shown == Some("quiet") && args.quiet, json: shown == Some("json") && json })
}

/// The plan of `cycles`.
///
/// # Errors
/// As [`dbs`], or the schedule is too long.
pub fn cycles(args: args::Cycles, sources: &Sources<'_>) -> anyhow::Result<CyclesPlan> {
    let schedule = Schedule {
        cycles: args.cycles,
        run_duration: args.run_duration,
        check_interval: args.check_interval,
        break_duration: args.break_duration,
    };
    ensure!(
        schedule.total().is_some_and(|total| total <= LONGEST_RUN),
        "--cycles: {} cycles of {} with breaks of {} take more than ten years; ask for fewer",
        schedule.cycles,
        humantime::format_duration(schedule.run_duration),
        humantime::format_duration(schedule.break_duration)
    );
    ensure!(
        schedule.check_interval >= SHORTEST_INTERVAL,
        "--check-interval: {} is too short; give 1ms or more",
        humantime::format_duration(schedule.check_interval)
    );

    let millis = args.common.millis || schedule.check_interval.subsec_nanos() != 0;
    let json = args.common.json;

    let mut held = args.held;
    let mut connection = args.connection;
    if held && connection.cluster {
        // A persistent connection leads to one node, but a cluster has several.
        let chosen = sources.choose(&["held", "cluster"])?;
        held = chosen == Some("held");
        connection.cluster = chosen == Some("cluster");
    }

    let plan = plan(connection, args.common, args.max_db, Databases::One(0), millis, sources)?;
    Ok(CyclesPlan { plan, schedule, held, json })
}

/// The plan of `report`: what to read and how to show it.
#[derive(Clone, Debug)]
pub struct ReportPlan {
    pub paths: Vec<PathBuf>,
    pub range: Range,
    /// Timestamps without an offset are in UTC.
    pub utc: bool,
    pub json: bool,
    /// The file for the HTML page.
    pub html: Option<PathBuf>,
    pub verbose: bool,
}

/// The plan of `report`.
///
/// # Errors
/// A time that cannot be parsed, or an end before the beginning.
pub fn report(args: args::Report) -> anyhow::Result<ReportPlan> {
    let now = Clock { utc: args.utc, millis: false }.now().at;
    let time = |flag: &str, text: Option<&String>| match text {
        Some(text) => units::time(text, now, args.utc).map(Some).with_context(|| {
            format!(
                "--{flag}: {text} is not a time; write 2025-08-27, \"2025-08-27 07:35\", 07:35, RFC 3339 or \"2h ago\""
            )
        }),
        None => Ok(None),
    };

    let range = Range { since: time("since", args.since.as_ref())?, until: time("until", args.until.as_ref())? };
    ensure!(
        range.since.zip(range.until).is_none_or(|(since, until)| since < until),
        "--until is before --since; swap them"
    );
    ensure!(
        !args.paths.iter().any(|path| path.to_string_lossy().contains("://")),
        "report: a URI is not a log file; give the folder or the files that dbs and cycles wrote"
    );

    let paths = if args.paths.is_empty() { vec![args.log_dir] } else { args.paths };
    Ok(ReportPlan { paths, range, utc: args.utc, json: args.json, html: args.html, verbose: args.verbose })
}

fn plan(
    mut connection: args::Connection,
    common: args::Common,
    max_db: Option<args::MaxDb>,
    default: Databases,
    millis: bool,
    sources: &Sources<'_>,
) -> anyhow::Result<Plan> {
    settle_cluster_or_role(&mut connection, sources)?;
    // Clusters before Valkey 9 have no other database.
    let default = if connection.cluster { Databases::One(0) } else { default };
    let uri = uri(&connection, sources)?;
    let databases = databases(&connection, max_db, uri.as_ref(), default, sources)?;
    let mut warnings = Vec::new();
    let credentials = credentials(&connection, uri.as_ref(), sources, &mut warnings)?;
    let (timeout, deadline) = limits(&connection, sources);

    let tls_by_uri = uri.as_ref().is_some_and(|uri| uri.tls);
    let endpoint = match uri {
        Some(uri) => uri.endpoint,
        None => endpoint(connection.host, connection.port, connection.socket, sources)?,
    };
    let settings = tls::Settings {
        ca: connection.cacert,
        certificate: connection.cert,
        key: connection.key,
        name: connection.sni,
        insecure: connection.insecure,
    };
    let tls = tls(connection.tls || tls_by_uri, &endpoint, settings, sources)?;
    #[cfg(feature = "iam")]
    ensure!(
        tls.is_some() || !matches!(credentials, Some((_, PasswordSource::Iam(_)))),
        "--iam requires TLS: ElastiCache accepts tokens only over TLS; give --tls, or a URI with rediss://"
    );

    Ok(Plan {
        endpoint,
        tls,
        credentials,
        databases,
        cluster: connection.cluster,
        expect_role: connection.expect_role,
        canary: connection.canary,
        timeout,
        deadline,
        clock: Clock { utc: common.utc, millis },
        log: log_files(&common)?,
        metrics: common.metrics_file,
        verbose: common.verbose,
        trace_dir: common.trace_dir,
        warnings,
    })
}

/// A cluster has servers of both roles, so only one of the two flags can apply.
fn settle_cluster_or_role(connection: &mut args::Connection, sources: &Sources<'_>) -> anyhow::Result<()> {
    if connection.cluster && connection.expect_role.is_some() {
        let chosen = sources.choose(&["expect_role", "cluster"])?;
        connection.cluster = chosen == Some("cluster");
        connection.expect_role = connection.expect_role.filter(|_| chosen == Some("expect_role"));
    }
    Ok(())
}

/// The time limits for one check and for one pass over all databases.
fn limits(connection: &args::Connection, sources: &Sources<'_>) -> (Duration, Duration) {
    let is_given = sources.typed("deadline") || sources.inherited("deadline");
    // Only the default deadline is raised to the timeout: a longer timeout was given on purpose.
    let deadline = if is_given { connection.deadline } else { connection.deadline.max(connection.timeout) };
    // A check cannot take longer than the pass that it belongs to.
    (connection.timeout.min(deadline), deadline)
}

fn log_files(common: &args::Common) -> anyhow::Result<LogFiles> {
    ensure!(common.keep.is_none() || common.rotate.is_some(), "--keep needs --rotate; give both or none");
    let rotate = common.rotate.map(|when| Rotate { when, keep: common.keep, utc: common.utc });
    Ok(LogFiles { folder: common.log_dir.clone(), format: common.log_format, rotate })
}

fn endpoint(
    host: Option<String>,
    port: Option<u16>,
    socket: Option<PathBuf>,
    sources: &Sources<'_>,
) -> anyhow::Result<Endpoint> {
    let by_port = sources.choose(&["socket", "port"])?;
    let by_host = sources.choose(&["socket", "host"])?;
    if let (Some(path), Some("socket"), Some("socket")) = (socket, by_port.or(by_host), by_host.or(by_port)) {
        return Ok(Endpoint::Unix(path));
    }

    let host = host.unwrap_or_else(|| "127.0.0.1".to_owned());
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host).to_owned();
    ensure!(!host.is_empty(), "--host: the name is empty; give the endpoint's name or address");
    ensure!(Printable::is_plain(&host), "--host: the name has a character that cannot be shown; type it again");
    ensure!(
        host.parse::<std::net::IpAddr>().is_ok() || !host.contains([':', '/', '@', ' ']),
        "--host: {} is not a host name; give the port with --port, and a URI with --uri",
        if might_be_secret(&host) { REDACTED } else { &host }
    );

    Ok(Endpoint::Tcp { host, port: port.unwrap_or(6379) })
}

/// The TLS settings, if a flag or the URI enables TLS.
fn tls(
    mut is_wanted: bool,
    endpoint: &Endpoint,
    settings: tls::Settings,
    sources: &Sources<'_>,
) -> anyhow::Result<Option<tls::Settings>> {
    if is_wanted && matches!(endpoint, Endpoint::Unix(_)) {
        ensure!(!sources.typed("tls"), "--tls cannot be combined with a Unix socket; leave one of them out");
        // A socket on the command line overrides TLS in the environment.
        is_wanted = !(sources.typed("socket") || sources.typed("uri"));
        ensure!(
            !is_wanted,
            "REDIS_HEALTH_TLS in the environment cannot be combined with a Unix socket; unset one of them"
        );
    }
    if !is_wanted {
        let flags = ["cacert", "cert", "key", "sni", "insecure"];
        if let Some(flag) = flags.into_iter().find(|flag| sources.typed(flag)) {
            bail!("{} requires --tls; give --tls or a rediss:// URI too, or leave it out", flag_name(flag));
        }
        return Ok(None);
    }

    for (one, other, alone) in [
        ("cert", "key", settings.certificate.is_some() && settings.key.is_none()),
        ("key", "cert", settings.key.is_some() && settings.certificate.is_none()),
    ] {
        let name = if sources.inherited(one) { variable_name(one) } else { flag_name(one) };
        ensure!(!alone, "{name} needs {}; give both or none", flag_name(other));
    }
    Ok(Some(settings))
}

fn databases(
    connection: &args::Connection,
    max_db: Option<args::MaxDb>,
    uri: Option<&Uri>,
    default: Databases,
    sources: &Sources<'_>,
) -> anyhow::Result<Databases> {
    // `-n 0` and a URI with database 0 are no contradiction.
    if connection.no_select {
        let (db, in_uri) = (connection.db.unwrap_or(0), uri.and_then(|uri| uri.db).unwrap_or(0));
        let excluded = [Some("no_select"), (db > 0).then_some("db"), Some("max_db"), (in_uri > 0).then_some("uri")];
        let excluded: Vec<_> = excluded.into_iter().flatten().collect();
        if sources.choose(&excluded)? == Some("no_select") {
            return Ok(Databases::ZeroWithoutSelect);
        }
    }

    let chosen = sources.choose(&["db", "max_db"])?;
    if let Some(in_uri) = uri.and_then(|uri| uri.db) {
        let other = chosen.filter(|flag| sources.typed(flag) && !(*flag == "db" && connection.db == Some(in_uri)));
        match other {
            Some(flag) if sources.typed("uri") => {
                bail!(
                    "--uri names database {in_uri} and cannot be used together with {}; leave one of them out",
                    flag_name(flag)
                )
            }
            Some(_) => {}
            None => return Ok(Databases::One(in_uri)),
        }
    }

    Ok(match (chosen, connection.db, max_db) {
        (Some("db"), Some(db), _) => Databases::One(db),
        (Some("max_db"), _, Some(args::MaxDb::Index(last))) => Databases::UpTo(last),
        (Some("max_db"), _, Some(args::MaxDb::Auto)) => Databases::Auto,
        _ => default,
    })
}

/// The ACL user, if any, and where the password comes from. None if no authentication is configured.
fn credentials(
    connection: &args::Connection,
    uri: Option<&Uri>,
    sources: &Sources<'_>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<(Option<String>, PasswordSource)>> {
    let user = user(connection, uri, sources)?;
    let source = password_source(connection, uri, user.as_deref(), sources, warnings)?;
    // The URI contains the user and an empty password.
    let by_uri = user.is_some() && uri.is_some_and(|uri| uri.user == user && uri.password.is_some());
    let source = source.or_else(|| by_uri.then(|| PasswordSource::Given(Secret::new(""))));

    #[cfg(feature = "iam")]
    if !matches!(source, Some(PasswordSource::Iam(_))) {
        for flag in ["iam_cache", "iam_serverless", "region"] {
            ensure!(!sources.typed(flag), "{} requires --iam; give both", flag_name(flag));
        }
    }
    match (user, source) {
        (user, Some(source)) => Ok(Some((user, source))),
        (Some(_), None) => {
            bail!("--user needs a password; set REDISCLI_AUTH, or give --pass-file, --password-command or --askpass")
        }
        (None, None) => Ok(None),
    }
}

fn user(connection: &args::Connection, uri: Option<&Uri>, sources: &Sources<'_>) -> anyhow::Result<Option<String>> {
    let Some(in_uri) = uri.and_then(|uri| uri.user.clone()) else { return Ok(connection.user.clone()) };
    if !sources.typed("user") || connection.user.as_ref() == Some(&in_uri) {
        return Ok(Some(in_uri));
    }

    ensure!(
        !sources.typed("uri"),
        "--uri names the user {in_uri} and cannot be used together with --user; leave one of them out"
    );
    Ok(connection.user.clone())
}

/// Where the password comes from: flags override a URI, and a URI overrides the environment.
fn password_source(
    connection: &args::Connection,
    uri: Option<&Uri>,
    user: Option<&str>,
    sources: &Sources<'_>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<PasswordSource>> {
    const VISIBLE: &str = "can be seen by all users of this machine in the process list; \
                           REDISCLI_AUTH, --pass-file or --password-command keep it private";
    let chosen = sources.choose(&[
        "password",
        "pass_file",
        "password_command",
        "askpass",
        #[cfg(feature = "iam")]
        "iam",
    ])?;
    let typed = chosen.filter(|flag| sources.typed(flag));

    // If the URI's password is empty, it comes from the flags or the environment.
    let in_uri = uri.and_then(|uri| uri.password.clone()).filter(|password| !password.reveal().is_empty());
    if in_uri.is_some() && sources.typed("uri") {
        if let Some(flag) = typed {
            let flag = flag_name(flag);
            bail!("--uri has a password and cannot be used together with {flag}; leave one of them out");
        }
        warnings.push(format!("warning: the password in --uri {VISIBLE}"));
    }
    if typed == Some("password") {
        warnings.push(format!("warning: the password of -a {VISIBLE}"));
    }

    match in_uri {
        Some(password) if typed.is_none() => Ok(Some(PasswordSource::Given(password))),
        _ => source_of_flag(chosen, connection, user),
    }
}

/// The password source for a flag.
#[cfg_attr(not(feature = "iam"), expect(unused_variables, clippy::unnecessary_wraps))]
fn source_of_flag(
    flag: Option<&str>,
    connection: &args::Connection,
    user: Option<&str>,
) -> anyhow::Result<Option<PasswordSource>> {
    Ok(match flag {
        Some("password") => connection.password.clone().map(|text| PasswordSource::Given(Secret::new(text))),
        Some("pass_file") => connection.pass_file.clone().map(PasswordSource::File),
        Some("password_command") => connection.password_command.clone().map(PasswordSource::Command),
        Some("askpass") => Some(PasswordSource::Prompt),
        #[cfg(feature = "iam")]
        Some("iam") => Some(PasswordSource::Iam(iam(connection, user)?)),
        _ => None,
    })
}

/// The signer for `--iam` and its related flags.
#[cfg(feature = "iam")]
fn iam(connection: &args::Connection, user: Option<&str>) -> anyhow::Result<crate::auth::iam::Signer> {
    let user = user.context("--iam needs --user; give the id of the ElastiCache user")?;
    let cache = connection
        .iam
        .iam_cache
        .as_deref()
        .context("--iam needs --iam-cache; give the id of the replication group or of the serverless cache")?;
    ensure!(
        !cache.is_empty() && cache.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
        "--iam-cache: {cache} is not the id of a cache; give the id of the replication group, not the endpoint's name"
    );

    Ok(crate::auth::iam::Signer {
        user: user.to_owned(),
        cache: cache.to_ascii_lowercase(),
        serverless: connection.iam.iam_serverless,
        region: connection.iam.region.clone().filter(|region| !region.is_empty()),
    })
}

/// The URI, if one was given and no flag overrides it.
fn uri(connection: &args::Connection, sources: &Sources<'_>) -> anyhow::Result<Option<Uri>> {
    let Some(text) = &connection.uri else { return Ok(None) };
    for flag in ["host", "socket"] {
        if sources.choose(&["uri", flag])? == Some(flag) {
            return Ok(None);
        }
    }
    // A port without a host cannot replace a URI.
    if sources.typed("port") {
        let uri = if sources.typed("uri") { "--uri" } else { "REDIS_HEALTH_URI" };
        bail!("{uri} and --port cannot be used together; write the port into the URI, or give --host too");
    }
    uri::parse(text).map(Some)
}
