# Runs on host a: its guest goes to b, by b's name, with the certificates in /tls. Those in
# /stranger are of another CA, and those in /other of the same CA but of a host that b does not
# allow.
set -eu
vmm run --name web1 --memory 32M --cmdline "workload=phased ws=1M hot=64K" >/run/web1.out &
until vmm status web1 >/dev/null 2>&1 && nc b 9 </dev/null | grep -q waits; do sleep 0.2; done
for who in stranger other; do
  if vmm migrate web1 tcp:b:4444 --tls-dir /$who 2>/run/refused; then
    echo "$who was let in"
    exit 1
  fi
  echo "$who: $(cat /run/refused)"
done
# A starved host may let the guest stand still for long, or write more than it sends.
vmm migrate web1 tcp:b:4444 --tls-dir /tls --verify --max-rounds 30 --standstill-limit 0
wait
