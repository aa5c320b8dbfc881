package bench

import (
	"cmp"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"taskguide/bench/peer/qemu"
)

// totalMemory is the host's memory in bytes, or 0 if it is not known.
func totalMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// qemuVersion is the version of a QEMU program, or of the installed one if program is empty. It is
// empty if there is none.
func qemuVersion(program string) string {
	out, err := exec.Command(cmp.Or(program, qemu.Binary), "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	_, version, _ := strings.Cut(line, "version ")
	return version
}
