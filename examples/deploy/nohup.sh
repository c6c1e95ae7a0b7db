#!/bin/sh
# Checks an endpoint during an upgrade and continues when the terminal is closed.
#
#     sh nohup.sh cache.example [more flags of `redis-health cycles`]
#
# Events are printed to redis-health/nohup.out; the log files are in the same folder. To stop early, use the kill
# command that this script prints: the final marks and the summary are still written.
set -eu
host=${1:?usage: sh nohup.sh HOST [flags]}
shift
mkdir -p redis-health
nohup redis-health cycles --host "$host" --log-dir redis-health "$@" >redis-health/nohup.out 2>&1 &
echo "Checking $host. Follow: tail -f redis-health/nohup.out; stop: kill $!"
