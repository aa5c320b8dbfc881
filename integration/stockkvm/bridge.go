package stockkvm

import (
	"context"
	"fmt"
)

// GuestTAP is the TAP device of each host of a pair with Bridge, for a guest's network card.
const GuestTAP = "tap0"

// bridgeCards makes the host's card and a TAP device ports of one bridge, which takes over the
// card's address. The TAP is there to stay (tunctl), so that vmm finds it by name. It is up before
// vmm opens it; until then it has no carrier.
const bridgeCards = `set -e
mac=$(cat /sys/class/net/eth0/address)
brctl addbr br0
ip link set br0 address $mac
brctl addif br0 eth0
tunctl -t $tap >/dev/null
brctl addif br0 $tap
ip address flush dev eth0
ip link set br0 up
ip link set $tap up
ip address add $self/24 dev br0
`

// Bridge joins the guests of both hosts to the network between them: on each, what has GuestTAP is
// on it. Connections of a host itself must be made after that. The hosts need ScriptModules.
func (p *Pair) Bridge(ctx context.Context) error {
	for i, h := range p.Hosts {
		env := fmt.Sprintf("self=%s tap=%s\n", p.Address(i), GuestTAP)
		out, err := h.Run(ctx, "sh", "-c", env+bridgeCards)
		if err != nil {
			return err
		}
		if out.Exit.Status() != 0 {
			return fmt.Errorf("bridge on host %s: status %d: %s", PairNames[i], out.Exit.Status(),
				out.Stderr)
		}
	}
	return nil
}
