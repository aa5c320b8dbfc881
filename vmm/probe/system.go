package probe

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind says by what means KVM runs guests.
type Kind string

const (
	Intel Kind = "intel" // VMX: kvm_intel
	AMD   Kind = "amd"   // SVM: kvm_amd
	// PVM is KVM without hardware virtualization (kvm_pvm): guest user mode runs natively, guest
	// kernel mode is emulated instruction by instruction.
	PVM Kind = "pvm"
)

// EmulatesRing0 tells whether guest kernel code is emulated on this host.
func EmulatesRing0() bool {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && kindOf(string(cpuinfo), hasPVM()) == PVM
}

// host is what Linux says about host and processor.
type host struct {
	kind   Kind
	cpu    string // model name
	kernel string // release

	hugePages bool // shared memory that asks for huge pages may get them
}

func readHost() host {
	var h host
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		h.kernel = unix.ByteSliceToString(name.Release[:])
	}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	h.cpu = cpuinfoField(string(cpuinfo), "model name")
	h.kind = kindOf(string(cpuinfo), hasPVM())
	setting, _ := os.ReadFile("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
	h.hugePages = givesHugePages(string(setting))
	return h
}

// givesHugePages tells whether shared memory gets huge pages when it asks for them, from Linux'
// setting for that: a list of words, with the one that holds in brackets
// (Documentation/admin-guide/mm/transhuge.rst). It is empty in a kernel without huge pages.
func givesHugePages(setting string) bool {
	_, rest, _ := strings.Cut(setting, "[")
	word, _, ok := strings.Cut(rest, "]")
	return ok && word != "never" && word != "deny"
}

func hasPVM() bool {
	_, err := os.Stat("/sys/module/kvm_pvm")
	return err == nil
}

// kindOf tells how KVM runs guests, from /proc/cpuinfo and whether kvm_pvm is loaded. A KVM that
// works without the processor's help can only be kvm_pvm.
func kindOf(cpuinfo string, pvm bool) Kind {
	flags := strings.Fields(cpuinfoField(cpuinfo, "flags"))
	switch {
	case pvm:
		return PVM
	case slices.Contains(flags, "vmx"):
		return Intel
	case slices.Contains(flags, "svm"):
		return AMD
	}
	return PVM
}

// cpuinfoField returns a field of the first processor in /proc/cpuinfo.
func cpuinfoField(cpuinfo, name string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
