package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm"
	"taskguide/vmm/device/virtio"
)

func TestNetFlag(t *testing.T) {
	var f netsFlag
	for _, s := range []string{"tap:tap0", "unix:/run/passt.sock,mac=02:00:00:00:00:0a"} {
		require.NoError(t, f.Set(s))
	}
	require.Equal(t, []vmm.Net{
		{Backend: virtio.NetTAP, Name: "tap0"},
		{Backend: virtio.NetUnix, Name: "/run/passt.sock", MAC: virtio.MAC{2, 0, 0, 0, 0, 10}},
	}, f.cards)
	for bad, want := range map[string]string{
		"":                              "want tap:IFNAME[,mac=MAC] or unix:PATH[,mac=MAC]",
		"tap:":                          "want tap:IFNAME",
		"vde:x":                         "want tap:IFNAME",
		"tap:a,mtu=9000":                `option "mtu=9000": use mac=MAC`,
		"tap:a,mac=":                    `"" is no MAC address`,
		"tap:a,mac=02:00":               "is no MAC address",
		"tap:a,mac=0200.0000.0001":      "is no MAC address",
		"tap:a,mac=01:00:00:00:00:01":   "its first byte must be even",
		"tap:a,mac=00:00:00:00:00:00":   "cannot be a card's address",
		"tap:a,mac=02:00:00:00:00:01,x": "is no MAC address",
	} {
		require.ErrorContains(t, f.Set(bad), want, bad)
	}
	require.Len(t, f.cards, 2)
}
