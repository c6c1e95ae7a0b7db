#!/bin/sh
# Watches an endpoint through an upgrade, also when the terminal goes away.
#
#     sh nohup.sh cache.example [more flags of `redis-health cycles`]
#
# The story is in redis-health/nohup.out, the records are in the logs beside it. End it early with the kill command that
# is printed: marks and summary are still written.
set -eu
host=${1:?usage: sh nohup.sh HOST [flags]}
shift
mkdir -p redis-health
nohup redis-health cycles --host "$host" --log-dir redis-health "$@" >redis-health/nohup.out 2>&1 &
echo "watching $host; read along: tail -f redis-health/nohup.out; end: kill $!"
