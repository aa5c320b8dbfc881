# Runs on host a: has a lock, which b cannot get, and lets go of it.
set -eu
cd /shared
echo "from a" >file
mkfifo /run/hold
lock file </run/hold >/run/said &
exec 3>/run/hold
until grep locked /run/said; do sleep 0.2; done
touch locked
until [ -e tried ]; do sleep 0.2; done
exec 3>&-
wait
touch free
until [ -e done ]; do sleep 0.2; done
cat from-b
