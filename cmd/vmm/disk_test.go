package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm"
)

func TestDiskFlag(t *testing.T) {
	var f disksFlag
	for _, s := range []string{
		"a.img", "b.img,readonly,cache=host", "/dev/sdx,lock=none,cache=direct",
	} {
		require.NoError(t, f.Set(s))
	}
	require.Equal(t, []vmm.Disk{
		{Path: "a.img", Cache: "auto", Lock: "ofd"},
		{Path: "b.img", ReadOnly: true, Cache: "host", Lock: "ofd"},
		{Path: "/dev/sdx", Cache: "direct", Lock: "none"},
	}, f.disks)
	for bad, want := range map[string]string{
		"":              "want a file",
		",readonly":     "want a file",
		"a,cache=never": "use auto, direct or host",
		"a,lock":        "use ofd or none",
		"a,readonly=no": `option "readonly=no": use readonly, cache=auto|direct|host`,
		"a,size=1":      `option "size=1"`,
	} {
		require.ErrorContains(t, f.Set(bad), want)
	}
	require.Len(t, f.disks, 3)
}
