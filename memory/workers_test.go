package memory

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const printWorkers = "TASKGUIDE_PRINT_WORKERS"

func TestMain(m *testing.M) {
	if os.Getenv(printWorkers) != "" {
		runtime.GOMAXPROCS(64) // as a program does for its vCPUs
		os.Stdout.WriteString(strconv.Itoa(Workers()))
		return
	}
	os.Exit(m.Run())
}

// Affinity, quota or environment bound the runtime at the start. That bounds the workers, and what
// the program does for its vCPUs later does not.
func TestWorkersAreWhatTheProcessMayUse(t *testing.T) {
	for _, bound := range []string{"1", "7"} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), printWorkers+"=1", "GOMAXPROCS="+bound)
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, bound, strings.TrimSpace(string(out)))
	}
}
