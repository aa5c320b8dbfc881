# Runs on host b: cannot get the lock that a has, and gets it once a lets go.
set -eu
cd /shared
until [ -e locked ]; do sleep 0.2; done
cat file
if lock file </dev/null; then exit 1; fi
touch tried
until [ -e free ]; do sleep 0.2; done
lock file </dev/null
echo "from b" >from-b
touch done
