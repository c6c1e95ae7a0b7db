#!/usr/bin/env python3
"""Compares redis-health with clients of redis-py while a failover happens.

    PYTHONPATH=target/engines/redis-py tests/failover.py BINARY [RUNS] [KIND...]

One client writes every 5 ms, each time over a fresh connection and without retries. Another one writes over a pool with the
default settings. `cycles --canary` and `cycles --canary --held` watch the same name, each with the patience of its client.
For each run of each kind:

- the window in which the fresh client saw errors must overlap an outage in the log, from the last success before it to
  the first success after it;
- HELD, reads and writes, must fail if and only if the pooled client saw an error.

Both servers listen on one port of two loopback addresses. The name is a line in a file that is mounted as /etc/hosts, so
this runs itself again in namespaces of its own. It prints a line for each run, and exits with 1 if one disagrees, and with
77 if this system has no such namespaces.
"""
import datetime, json, os, random, shutil, signal, socket, subprocess, sys, tempfile, threading, time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

NAME, OLD, NEW = "cache.test", "127.0.0.1", "127.0.0.2"

# How long the fresh client waits, in seconds.
FRESH_PATIENCE = 2

# How long the pooled client waits for a silent server in all: 11 attempts of 5 s, and about 4 s between them.
POOLED_PATIENCE = 60

# How long a run may take, in seconds.
LIMIT = 40


class Scene:
    """Two servers, the name, and what a kind of failover does to them."""

    def __init__(self, hosts, folder, processes):
        """Adds each process to `processes` when it starts, so that the caller can end it whatever happens."""
        self.hosts, self.folder, self.processes, self.started = hosts, folder, processes, time.time()
        self.point_to(OLD)
        with socket.socket() as probe:
            probe.bind((OLD, 0))
            self.port = probe.getsockname()[1]
        self.old = self.start(OLD)
        self.new = self.start(NEW, "--replicaof", OLD, str(self.port))
        self.wait(lambda: self.info(NEW, "master_link_status") == "up")

    def start(self, address, *more):
        folder = f"{self.folder}/{address}"
        os.makedirs(folder, exist_ok=True)
        server = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", address, "--save", "", "--dir", folder,
             "--repl-diskless-sync-delay", "0", "--replica-announce-ip", address, *more], stdout=subprocess.DEVNULL)
        self.processes.append(server)
        self.wait(lambda: self.client(address).ping())
        return server

    def client(self, address):
        return redis.Redis(address, self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def info(self, address, field):
        return self.client(address).info("replication").get(field)

    @staticmethod
    def wait(condition):
        """Waits for a condition. The alarm of the run ends this."""
        while True:
            try:
                if condition():
                    return
            except (OSError, redis.RedisError):
                pass
            time.sleep(0.02)

    def point_to(self, address):
        # Overwritten in place with the same length, because the file is mounted.
        with open(self.hosts, "r+") as file:
            file.write(f"{address} {NAME}\n")

    def fail_over(self):
        self.client(OLD).execute_command("FAILOVER", "TO", NEW, self.port, "TIMEOUT", 20000)
        self.wait(lambda: self.info(OLD, "role") == "slave" and self.info(NEW, "role") == "master")

    def cut(self, address=OLD):
        self.client(address).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def promote(self):
        self.client(NEW).replicaof("NO", "ONE")

    def kill(self, address=OLD):
        server = self.old if address == OLD else self.new
        server.kill()
        server.wait()


def pause():
    time.sleep(0.4 + random.random() * 0.3)


# Each kind ends with a healthy primary under the name.

def planned_then_moved(s):
    s.fail_over(); pause(); s.point_to(NEW); pause(); s.cut()

def planned_cut_then_moved(s):
    s.fail_over(); s.cut(); pause(); s.cut(); s.point_to(NEW); s.cut()

def planned_then_stopped(s):
    s.fail_over(); pause(); s.kill(); pause(); s.point_to(NEW)

def killed_promoted_moved(s):
    s.kill(); pause(); s.promote(); s.point_to(NEW)

def killed_moved_promoted(s):
    s.kill(); pause(); s.point_to(NEW)
    # The pooled client waits for random times of up to 1 s between its attempts. If the name points to a replica for a
    # shorter time, it is chance whether the client sees that, and several such clients do not agree.
    time.sleep(1.5)
    s.promote()

def killed_restarted(s):
    s.kill(); pause(); s.old = s.start(OLD)

def moved_to_a_replica_first(s):
    s.point_to(NEW); s.cut(); pause(); s.fail_over()

def frozen_and_thawed(s):
    s.old.send_signal(signal.SIGSTOP); time.sleep(3); s.old.send_signal(signal.SIGCONT); pause()

def frozen_promoted_moved(s):
    s.old.send_signal(signal.SIGSTOP); pause(); s.promote(); time.sleep(2.2); s.point_to(NEW); s.kill()

def too_few_replicas(s):
    s.client(OLD).config_set("min-replicas-to-write", 3); pause(); s.client(OLD).config_set("min-replicas-to-write", 0)

def full_then_moved(s):
    s.client(OLD).config_set("maxmemory", 1); pause(); s.client(OLD).config_set("maxmemory", 0)

def at_its_client_limit(s):
    admin = s.client(OLD)
    admin.config_set("maxclients", 1)
    # Over the same connection, because the server refuses new ones now.
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    pause()
    admin.config_set("maxclients", 10000)


KINDS = [planned_then_moved, planned_cut_then_moved, planned_then_stopped, killed_promoted_moved, killed_moved_promoted,
         killed_restarted, moved_to_a_replica_first, frozen_and_thawed, frozen_promoted_moved, too_few_replicas,
         full_then_moved, at_its_client_limit]


class Client(threading.Thread):
    """Writes until told to stop, and keeps (sent, answered, error)."""

    def __init__(self, make, fresh):
        super().__init__(daemon=True)
        self.make, self.fresh, self.writes, self.ended = make, fresh, [], False

    def run(self):
        client = self.make()
        while not self.ended:
            sent, error = time.time(), None
            try:
                client.set("rehearsal", 1, px=1000)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
            self.writes.append((sent, time.time(), error))
            if self.fresh:
                client.close()
                client = self.make()
            time.sleep(0.005)

    def succeeded(self, since):
        """How many writes in a row have succeeded at the end, of those that were sent after a time."""
        count = 0
        for sent, _, error in reversed(self.writes):
            if error or sent < since:
                break
            count += 1
        return count

    def window(self):
        """The first and the last moment with an error, how many there were, and the first one."""
        failed = [write for write in self.writes if write[2]]
        return (failed[0][0], failed[-1][1], len(failed), failed[0][2]) if failed else None


def checks(folder, held):
    """The checks of one subject in order: (start, end, whether reads and writes passed)."""
    found = {}
    for name in ("redis_success.log", "redis_error.log"):
        if not os.path.exists(f"{folder}/{name}"):
            continue
        with open(f"{folder}/{name}") as file:
            for line in file:
                # The last line may still be incomplete.
                record = json.loads(line) if line.endswith("\n") else {}
                if record.get("type") == "check" and bool(record.get("held")) == held:
                    start = datetime.datetime.fromisoformat(record["at"]).timestamp()
                    end, ok = start + record["elapsed_us"] / 1e6, record.get("ok", True)
                    same = found.get(start, (start, end, True))
                    found[start] = start, max(end, same[1]), ok and same[2]
    return sorted(found.values())


def succeeded(checks, since):
    """How many checks that began after a time have passed."""
    return sum(start > since and ok for start, _, ok in checks)


def outages(checks):
    """The spans of the outages: from the last success before to the first success after."""
    spans, before, failed = [], None, False
    for start, end, ok in checks:
        if ok:
            if failed:
                spans.append((before, end))
            before, failed = start, False
        else:
            before, failed = start if before is None else before, True
    return spans + [(before, float("inf"))] if failed else spans


def run(binary, kind, hosts):
    """One run of a kind, which is ended if it takes longer than LIMIT."""
    signal.alarm(LIMIT)
    folder, processes = tempfile.mkdtemp(), []
    try:
        scene = Scene(hosts, folder, processes)
        seen = watch(binary, kind, scene)
        signal.alarm(0)
        result = compare(kind.__name__, *seen)
    except Exception as error:
        signal.alarm(0)
        print(f"{kind.__name__}: FAILED: {type(error).__name__}: {error}", flush=True)
        result = False, False
    finally:
        for process in processes:
            process.kill()
            process.wait()

    if all(result):
        shutil.rmtree(folder)
    else:
        print(f"  the logs are in {folder}", flush=True)
    return result


def watch(binary, kind, scene):
    """The failover, watched by both clients and by redis-health: what they saw."""
    fresh = Client(lambda: redis.Redis(NAME, scene.port, socket_timeout=FRESH_PATIENCE, retry=Retry(NoBackoff(), 0)), True)
    pooled = Client(lambda: redis.Redis(NAME, scene.port), False)
    endpoint, held = f"{scene.folder}/endpoint", f"{scene.folder}/held"
    runs = [
        subprocess.Popen(
            [binary, "cycles", "-h", NAME, "-p", str(scene.port), "--canary", "--check-interval", "0.05", "--run-duration",
             "1h", "--log-format", "json", *more], stdout=subprocess.DEVNULL)
        for more in (["--log-dir", endpoint, "-t", str(FRESH_PATIENCE)],
                     ["--log-dir", held, "-t", str(POOLED_PATIENCE), "--held"])
    ]
    scene.processes.extend(runs)
    fresh.start()
    pooled.start()

    def all_succeeded(since):
        return (fresh.succeeded(since) > 50 and pooled.succeeded(since) > 20
                and succeeded(checks(endpoint, False), since) > 5 and succeeded(checks(held, True), since) > 5)

    try:
        # Before the failover, and again after it.
        scene.wait(lambda: all_succeeded(scene.started))
        kind(scene)
        over = time.time()
        scene.wait(lambda: all_succeeded(over))
    finally:
        fresh.ended = pooled.ended = True

    fresh.join()
    pooled.join()
    for health in runs:
        health.send_signal(signal.SIGTERM)
        health.wait()
    return fresh.window(), outages(checks(endpoint, False)), pooled.window(), outages(checks(held, True))


def compare(name, fresh, spans, pooled, held):
    overlap = fresh is not None and any(before <= fresh[1] and fresh[0] <= after for before, after in spans)
    agrees = (pooled is not None) == bool(held)

    def shown(window):
        return f"{window[2]} errors in {window[1] - window[0]:.3f} s, first {window[3][:60]!r}" if window else "no error"

    print(f"{name}: bounds {'overlap' if overlap else 'MISS'}, HELD {'agrees' if agrees else 'DISAGREES'}; fresh client: "
          f"{shown(fresh)}; pooled client: {shown(pooled)}; outages: {len(spans)}, of HELD: {len(held)}", flush=True)
    return overlap, agrees


def in_namespaces():
    """Runs this again with a hosts file and a process namespace of its own, so that nothing outlives it."""
    hosts = tempfile.mkdtemp() + "/hosts"
    with open(hosts, "w") as file:
        file.write(f"{OLD} {NAME}\n")
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    unshare = ["unshare", "-rmpf", "--kill-child", "sh", "-c", script, hosts]
    attempt = subprocess.run([*unshare, "true"], capture_output=True, text=True)
    if attempt.returncode:
        print(f"skipped: user, mount or process namespaces are missing: {attempt.stderr.strip()}")
        sys.exit(77)
    os.environ["FAILOVER_HOSTS"] = hosts
    os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


def main():
    hosts = os.environ.get("FAILOVER_HOSTS") or in_namespaces()
    binary, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    known = {kind.__name__: kind for kind in KINDS}
    kinds = [known[name] for name in sys.argv[3:]] or KINDS

    signal.signal(signal.SIGALRM, give_up)
    results = [run(binary, kind, hosts) for kind in kinds for _ in range(runs)]
    overlapping, agreeing = (sum(result[i] for result in results) for i in (0, 1))
    print(f"bounds overlap in {overlapping} of {len(results)}, HELD agrees in {agreeing} of {len(results)}")
    sys.exit(overlapping < len(results) or agreeing < len(results))


def give_up(*_):
    raise RuntimeError(f"the run took longer than {LIMIT} s")


main()
