#!/bin/sh
# What script.sh does outside of its segment. Prints how many times the machine has moved, before it
# and after it.
before=$(vmm-tag status | head -n 1)
dd if=/dev/urandom of=/tmp/work bs=64k count=4 2>/dev/null
after=$(vmm-tag status | head -n 1)
echo "${before##* }" "${after##* }"
