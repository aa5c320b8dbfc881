package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm"
	"taskguide/vmm/device/virtio"
)

func TestNetFlag(t *testing.T) {
	var f netsFlag
	for _, s := range []string{
		"tap:tap0", "unix:/run/passt.sock,mac=02:00:00:00:00:0a", "tap:a,queues=1",
		"tap:b,mac=02:00:00:00:00:0b,queues=8", "tap:c,queues=2,mac=02:00:00:00:00:0c",
	} {
		require.NoError(t, f.Set(s))
	}
	require.Equal(t, []vmm.Net{
		{Backend: virtio.NetTAP, Name: "tap0"},
		{Backend: virtio.NetUnix, Name: "/run/passt.sock", MAC: virtio.MAC{2, 0, 0, 0, 0, 10}},
		{Backend: virtio.NetTAP, Name: "a", Queues: 1},
		{Backend: virtio.NetTAP, Name: "b", MAC: virtio.MAC{2, 0, 0, 0, 0, 11}, Queues: 8},
		{Backend: virtio.NetTAP, Name: "c", MAC: virtio.MAC{2, 0, 0, 0, 0, 12}, Queues: 2},
	}, f.cards)
	for bad, want := range map[string]string{
		"":                        "want tap:IFNAME[,mac=MAC][,queues=N] or unix:PATH[,mac=MAC]",
		"tap:":                    "want tap:IFNAME",
		"vde:x":                   "want tap:IFNAME",
		"tap:a,mtu=9000":          `option "mtu=9000": use mac=MAC or queues=N`,
		"tap:a,queues=0":          "want 1 to 8 pairs of queues",
		"tap:a,queues=9":          "want 1 to 8 pairs of queues",
		"tap:a,queues=two":        "want 1 to 8 pairs of queues",
		"tap:a,queues":            "want 1 to 8 pairs of queues",
		"tap:a,queues=2,queues=2": `option "queues=2": given twice`,
		"tap:a,mac=02:00:00:00:00:01,mac=02:00:00:00:00:01": `:01": given twice`,
		"unix:/s,queues=2":              "only a card on a TAP interface has several queues",
		"tap:a,mac=":                    `"" is no MAC address`,
		"tap:a,mac=02:00":               "is no MAC address",
		"tap:a,mac=0200.0000.0001":      "is no MAC address",
		"tap:a,mac=01:00:00:00:00:01":   "its first byte must be even",
		"tap:a,mac=00:00:00:00:00:00":   "cannot be a card's address",
		"tap:a,mac=02:00:00:00:00:01,x": `option "x": use mac=MAC or queues=N`,
	} {
		require.ErrorContains(t, f.Set(bad), want, bad)
	}
	require.Len(t, f.cards, 5)
}
