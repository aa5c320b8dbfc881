package process

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/migration"
)

// However busy the process is with a migration, one processor stays free.
func TestAProcessorIsFree(t *testing.T) {
	for _, vcpus := range []int{1, 2, 8, 64} {
		for _, channels := range []int{1, 2, memory.Workers(), migration.MaxChannels} {
			busy := vcpus + channels + 1 /* console */ + 1 /* engine or populator */ + 1 /* API */
			require.Greater(t, processors(vcpus), busy, "%d vCPUs, %d channels", vcpus, channels)
		}
	}
}
