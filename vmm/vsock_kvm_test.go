package vmm

import (
	"bytes"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestVsockThatDoesNotFit is refused before anything of the guest is sent, and what is missing is
// named.
func TestVsockThatDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	opts := func(cid uint32, name string) Options {
		return Options{Vsock: &Vsock{CID: cid, Path: filepath.Join(dir, name)}}
	}
	src, err := New(Config{MemoryBytes: 16 << 20, CPUs: 1, Options: opts(5, "a")})
	require.NoError(t, err)
	defer func() { require.NoError(t, src.Close()) }()
	config, err := src.Config()
	require.NoError(t, err)
	none, err := newTestVM(t, 1, nil).Config()
	require.NoError(t, err)
	require.NotContains(t, string(none), "vsock")
	for _, c := range []struct {
		name   string
		config []byte
		opts   Options
		want   string
	}{
		{"none", config, Options{}, "it has one and none was given: use vmm run --incoming " +
			"--vsock 5,PATH"},
		{"another", config, opts(6, "b"), "its address (CID) is 5, and 6 was given: use vmm run " +
			"--incoming --vsock 5,PATH"},
		{"for a guest without", none, opts(5, "b"), "it has none and one was given: use vmm run " +
			"--incoming without --disk, --net and --vsock"},
		{"in use", config, opts(5, "a"), "address already in use"},
		{"reserved", bytes.ReplaceAll(config, []byte(`"cid":5`), []byte(`"cid":2`)), opts(2, "b"),
			"(CID) 2: use 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewFromConfig(c.config, c.opts)
			require.ErrorContains(t, err, c.want)
		})
	}
	dst, err := NewFromConfig(config, opts(5, "b"))
	require.NoError(t, err)
	again, err := dst.Config()
	require.NoError(t, err)
	require.Contains(t, string(again), `"vsock":{"cid":5}`)
	require.NoError(t, dst.Close())
	_, err = net.Dial("unix", filepath.Join(dir, "b"))
	require.Error(t, err, "its socket is gone")
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}
