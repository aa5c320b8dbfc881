# Runs on host b: takes what host a sends, and nobody else's.
set -eu
vmm run --name web1-new --incoming tcp:b:4444 --tls-dir /tls --allow a >/run/web1.out 2>/run/log &
while :; do vmm status web1-new >/dev/null 2>&1 && echo waits | nc -l -p 9; sleep 0.1; done &
until grep -q '^hb' /run/web1.out; do sleep 0.2; done
grep -m 1 '^hb' /run/web1.out
vmm stop web1-new
cat /run/log
