package bench

import (
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"taskguide/integration/qemu"
)

// totalMemory is the host's, 0 if it does not tell.
func totalMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// qemuVersion is the version of the installed QEMU, empty if there is none.
func qemuVersion() string {
	out, err := exec.Command(qemu.Binary, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	_, version, _ := strings.Cut(line, "version ")
	return version
}
