package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control/version"
)

// TestVersion: the JSON has what the text shows.
func TestVersion(t *testing.T) {
	status, text, stderr := try(t, "version")
	require.Zero(t, status, stderr)
	_, encoded, _ := try(t, "version", "--json")
	var info version.Info
	require.NoError(t, json.Unmarshal([]byte(encoded), &info))
	require.Contains(t, text, "version        "+info.Version+"\n")
	require.Contains(t, text, info.Go)
	require.NotEmpty(t, info.Machine.Sections)
	for _, s := range info.Machine.Sections {
		kind := strings.TrimRight(s.Name, "0123456789") // many of one kind are a range
		require.Contains(t, strings.Join(strings.Fields(text), " "), kind)
	}
	_, short, _ := try(t, "--version")
	require.Equal(t, "vmm "+info.Short()+"\n", short)
}
