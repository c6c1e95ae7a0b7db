#!/bin/bash
# The script that `redis-health cycles` replaces, its settings taken from the environment.
COUNT=1
for cycle in $(seq 1 "$CYCLES"); do
    echo "=== Cycle $cycle started at $(date '+%Y-%m-%d %H:%M:%S') ===" >> "$SUCCESS_LOG"
    END_TIME=$(($(date +%s) + RUN_DURATION))
    while [ "$(date +%s)" -lt "$END_TIME" ]; do
        TIMESTAMP=$(date '+%Y-%m-%d %H:%M:%S')
        RESPONSE=$(redis-cli -h "$REDIS_HOST" -p "$REDIS_PORT" PING 2>&1)
        if [ "$RESPONSE" == "PONG" ]; then
            echo "$TIMESTAMP SUCCESS $COUNT" >> "$SUCCESS_LOG"
        else
            echo "$TIMESTAMP FAILURE: $RESPONSE" >> "$ERROR_LOG"
        fi
        COUNT=$((COUNT + 1))
        sleep "$CHECK_INTERVAL"
    done
    if [ "$cycle" -lt "$CYCLES" ]; then
        echo "=== Cycle $cycle completed, sleeping for $BREAK_DURATION seconds ===" >> "$SUCCESS_LOG"
        sleep "$BREAK_DURATION"
    fi
done
echo "=== All cycles finished at $(date '+%Y-%m-%d %H:%M:%S') ===" >> "$SUCCESS_LOG"
