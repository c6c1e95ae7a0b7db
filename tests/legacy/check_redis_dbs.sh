#!/bin/bash
# The script that `redis-health dbs` replaces, its settings taken from the environment.
for DB in $(seq 0 "$MAX_DB"); do
    [ "$DB" = 0 ] && echo "===== Redis DB Health Check at $(date "+%Y-%m-%d %H:%M:%S") =====" >> "$LOG_FILE"
    RESPONSE=$(redis-cli -h "$REDIS_HOST" -p "$REDIS_PORT" -n "$DB" PING 2>&1)
    if [ "$RESPONSE" == "PONG" ]; then
        echo "DB $DB: RUNNING" >> "$LOG_FILE"
    else
        echo "DB $DB: NOT RUNNING ($RESPONSE)" >> "$LOG_FILE"
    fi
done
echo "" >> "$LOG_FILE"
