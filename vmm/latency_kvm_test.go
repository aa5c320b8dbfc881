package vmm

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestGuestsThreadsPreferLatency: the threads that a guest waits for, its vCPUs' and its console's,
// ask for short slices.
func TestGuestsThreadsPreferLatency(t *testing.T) {
	// This finds out what this kernel makes of the request; kernels before 6.12 ignore it.
	want := make(chan uint64)
	go func() {
		runtime.LockOSThread() // and the thread ends
		preferLatency()
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			attr = &unix.SchedAttr{}
		}
		want <- attr.Runtime
	}()
	slice := <-want

	vm, err := New(Config{MemoryBytes: 16 << 20, CPUs: 2, Options: Options{Console: io.Discard}})
	require.NoError(t, err)
	defer vm.Close()
	require.Eventually(t, func() bool {
		for _, name := range []string{"vcpu 0", "vcpu 1", "console"} {
			tid, ok := threadNamed(name)
			if !ok {
				return false
			}
			attr, err := unix.SchedGetAttr(tid, 0)
			if err != nil || attr.Runtime != slice {
				return false
			}
		}
		return true
	}, time.Minute, time.Millisecond, "threads with slices of %d ns", slice)
}

// threadNamed finds a thread of this process.
func threadNamed(name string) (tid int, ok bool) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", os.Getpid()))
	for _, task := range tasks {
		comm, err := os.ReadFile(filepath.Join(task, "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == name {
			tid, err := strconv.Atoi(filepath.Base(task))
			return tid, err == nil
		}
	}
	return 0, false
}
