//! `--cluster --canary` while slots move from one node to another.

use crate::support::cluster::Primaries;
use crate::support::env::{TestEnv, engine};
use crate::support::logs::last_success;

#[test]
fn a_migrating_slot_is_no_write_outage() {
    for name in ["redis-7.0", "valkey-9.1"] {
        let (env, cluster) = (TestEnv::new(), Primaries::start(&engine(name), 3));
        let port = cluster.nodes[1].port();
        let shards: Vec<_> = (0..3).map(|place| Primaries::slots(place, 3)).collect();
        let shards: Vec<_> = shards.iter().map(|(from, to)| format!("SHARD {from}-{to}")).collect();
        let run = env.endless(&format!("-c -p {port} --canary --check-interval 100ms"));
        let wait_for_progress = |count: usize| {
            let seen = last_success(&env.read("redis_success.log"), "CLUSTER");
            let more = |text: &str| shards[..count].iter().all(|shard| last_success(text, shard) > seen + 3);
            env.wait_for("redis_success.log", more)
        };
        wait_for_progress(3);

        // The canary key does not exist on the node that exports the slot, so this node redirects every write.
        let slots = Primaries::slots(2, 3);
        cluster.begin_migration(slots, 2, 0);
        wait_for_progress(3);

        // The shard ends with its last slot.
        cluster.end_migration(slots, 2, 0);
        let gone = format!("=== {} was present and is absent at ", shards[2]);
        env.wait_for("redis_success.log", |text| text.contains(&gone));
        // Checks that began before that have ended.
        wait_for_progress(2);
        let seen = last_success(&env.read("redis_success.log"), &shards[2]);
        wait_for_progress(2);
        assert_eq!(last_success(&env.read("redis_success.log"), &shards[2]), seen, "{name}");

        let output = run.stop();
        assert_eq!(
            env.read("redis_error.log").lines().filter(|line| line.contains("FAILURE")).count(),
            0,
            "{output:?}"
        );
    }
}

#[test]
fn a_shard_that_was_emptied_is_no_write_outage() {
    let (env, cluster) = (TestEnv::new(), Primaries::start(&engine("redis-7.0"), 3));
    let port = cluster.nodes[1].port();
    let slots = Primaries::slots(2, 3);
    let shard = format!("SHARD {}-{}", slots.0, slots.1);
    cluster.begin_migration(slots, 2, 0);
    cluster.end_migration((slots.0, slots.1 - 1), 2, 0);
    let shard_of_last_slot = format!("SHARD {}", slots.1);

    let run = env.endless(&format!("-c -p {port} --canary --check-interval 200ms"));
    env.wait_for("redis_success.log", |text| last_success(text, &shard_of_last_slot) > 2);

    // The last slot moves, and the node leaves the cluster: it now rejects writes with CLUSTERDOWN, and the last
    // discovery is from before that.
    let id = cluster.id(2);
    cluster.end_migration((slots.1, slots.1), 2, 0);
    assert_eq!(cluster.nodes[2].command("CLUSTER RESET"), "+OK");
    for place in [0, 1] {
        assert_eq!(cluster.nodes[place].command(&format!("CLUSTER FORGET {id}")), "+OK");
    }

    let gone = format!("=== {shard_of_last_slot} was present and is absent at ");
    env.wait_for("redis_success.log", |text| text.contains(&gone));
    let output = run.stop();
    assert!(!env.read("redis_error.log").contains("SHARD"), "{shard}: {output:?}");
}
