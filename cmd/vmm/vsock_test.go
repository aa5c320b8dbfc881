package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm"
)

func TestVsockFlag(t *testing.T) {
	for bad, want := range map[string]string{
		"": "want CID,PATH", "3": "without a path", "3,": "without a path", "x,/a": "want CID,PATH",
		"-1,/a": "want CID,PATH", "2,/a": "(CID) 2: use 3 to 4294967294",
		"4294967296,/a": "want CID,PATH",
	} {
		var f vsockFlag
		require.ErrorContains(t, f.Set(bad), want, bad)
		require.Nil(t, f.vsock)
	}
	var f vsockFlag
	require.NoError(t, f.Set("3,/run/a,b"))
	require.Equal(t, &vmm.Vsock{CID: 3, Path: "/run/a,b"}, f.vsock)
	require.ErrorContains(t, f.Set("4,/b"), "twice")
}
