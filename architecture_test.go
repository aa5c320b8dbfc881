// Package architecture holds the folders to the list of ARCHITECTURE.md: which of the project's
// packages each of them may import. Imports of tests are not counted.
package architecture

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// row says what a folder's package may import. A name that ends in /... stands for the folder and
// all below it; a folder below it that has a row of its own obeys that one.
type row struct {
	folder string
	may    string
}

// table is the list of ARCHITECTURE.md, in its order.
var table = []row{
	{"memory/", "-"},
	{"dirtylog/", "memory, vmm/kvm"},
	{"dirtylog/trace/", "dirtylog, memory"},
	{"transport/", "memory"},
	{"transport/certs/", "transport"},
	{"tagging/", "tagging/abi"},
	{"tagging/abi/", "-"},
	{"tagging/guest/", "tagging/abi"},
	{
		"migration/",
		"memory, dirtylog, transport, tagging, migration/policy, migration/program, " +
			"migration/stream, migration/peer",
	},
	{"migration/policy/", "-"},
	{"migration/program/", "migration/policy"},
	{"migration/peer/", "transport"},
	{"migration/stream/", "memory, dirtylog, transport"},
	{"vmm/", "vmm/..., memory, dirtylog, tagging"},
	{"vmm/kvm/", "-"},
	{"vmm/cpu/", "-"},
	{"vmm/probe/", "vmm/kvm, vmm/cpu, dirtylog"},
	{"vmm/boot/...", "memory"},
	{"vmm/device/...", "vmm/device, vmm/state, memory, tagging"},
	{"vmm/device/pci/", "vmm/device, vmm/state"},
	{"vmm/device/tagpci/", "vmm/device, vmm/device/pci, vmm/state, tagging"},
	{"vmm/device/virtio/", "vmm/device, vmm/device/pci, vmm/state, memory"},
	{"vmm/state/", "-"},
	{"guestkernel/...", "-"},
	{
		"control/",
		"control/version, dirtylog/trace, migration, tagging, transport, docs",
	},
	{"control/apitest/", "docs"},
	{
		"control/show/",
		"control, control/text, control/units, control/version, migration, tagging, vmm/probe, " +
			"vmm/state",
	},
	{"control/text/", "-"},
	{"control/units/", "-"},
	{"control/version/", "transport, vmm/state"},
	{
		"control/process/",
		"control/..., migration, vmm, vmm/cpu, memory, transport, dirtylog/..., tagging, " +
			"guestkernel/...",
	},
	{
		"bench/...",
		"bench/..., control, control/text, control/units, migration, migration/policy, tagging, " +
			"dirtylog/..., vmm/probe, guestkernel/...",
	},
	{"bench/relay/", "-"},
	{"bench/remote/", "-"},
	{"bench/shard/", "-"},
	{"bench/sim/", "dirtylog/trace, memory, migration/policy"},
	{"bench/simprogram/", "bench/sim, migration/policy, migration/program"},
	{
		"bench/simrun/",
		"bench/figure, bench/shard, bench/sim, bench/simprogram, control/text, control/units, " +
			"dirtylog/trace, memory, migration/policy",
	},
	{"docs/", "-"},
	{"integration/...", "all"},
	{"cmd/...", "all"},
}

// module is what the paths of the project's packages begin with.
const module = "taskguide/"

// tags are those of suites that need more than Go and /dev/kvm.
const tags = "qemu,stockkvm,guidance,examples,grub"

// covers tells whether a folder is the one that a name of the table stands for, or one of those.
func covers(name, folder string) bool {
	if base, tree := strings.CutSuffix(name, "/..."); tree {
		return folder == base || strings.HasPrefix(folder, base+"/")
	}
	return folder == strings.TrimSuffix(name, "/")
}

// rowOf is the row that a folder obeys: the one with the longest name.
func rowOf(folder string) (row, bool) {
	best, found := row{}, false
	for _, r := range table {
		if covers(r.folder, folder) && len(r.folder) > len(best.folder) {
			best, found = r, true
		}
	}
	return best, found
}

// allows tells whether a row lets its folder import another. Nothing but integration/ itself
// imports what is there.
func (r row) allows(folder string) bool {
	if covers("integration/...", folder) && r.folder != "integration/..." {
		return false
	}
	if r.may == "all" {
		return true
	}
	return slices.ContainsFunc(strings.Split(r.may, ", "), func(name string) bool {
		return covers(name, folder)
	})
}

// breaches lists what packages, by their folders, import and the table does not allow.
func breaches(imports map[string][]string) []string {
	var all []string
	for folder, list := range imports {
		r, ok := rowOf(folder)
		if !ok {
			all = append(all, folder+" has no row")
			continue
		}
		for _, path := range list {
			imported, ours := strings.CutPrefix(path, module)
			if ours && !r.allows(imported) {
				all = append(all, fmt.Sprintf("%s imports %s, its row %s allows %s",
					folder, imported, r.folder, r.may))
			}
		}
	}
	slices.Sort(all)
	return all
}

// listImports asks Go for the project's packages, by their folders, and what they import.
func listImports(t *testing.T) map[string][]string {
	t.Helper()
	const format = `{{.ImportPath}} {{join .Imports " "}}`
	cmd := exec.Command("go", "list", "-tags", tags, "-f", format, "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	imports := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		folder, ok := strings.CutPrefix(words[0], module)
		if !ok {
			continue // this one
		}
		imports[folder] = words[1:]
	}
	return imports
}

// TestImports: each folder imports what the table allows, and each row is about something.
func TestImports(t *testing.T) {
	imports := listImports(t)
	require.Contains(t, imports, "migration")
	require.Contains(t, imports["dirtylog"], module+"memory")
	require.Empty(t, breaches(imports))
	for _, r := range table {
		used := false
		for folder := range imports {
			obeyed, _ := rowOf(folder)
			used = used || obeyed == r
		}
		require.True(t, used, "no package in %s", r.folder)
	}
}

// TestBreachesAreSeen gives the test packages that break the table.
func TestBreachesAreSeen(t *testing.T) {
	for _, c := range []struct {
		folder, imports string
		want            string
	}{
		{"dirtylog", "vmm/kvm", ""},
		{"vmm", "vmm/any", ""},
		{"vmm/boot/any", "memory", ""},
		{"memory", "vmm", "memory imports vmm, its row memory/ allows -"},
		{"migration", "vmm", "migration imports vmm, its row migration/ allows memory, "},
		{"vmm/boot", "vmm/kvm", "vmm/boot imports vmm/kvm, its row vmm/boot/... allows memory"},
		{"control/show", "vmm", "control/show imports vmm, "},
		{"attic", "memory", "attic has no row"},
		{"vmm/attic", "memory", "vmm/attic has no row"},
		{"cmd/vmm", "integration/stockkvm", "cmd/vmm imports integration/stockkvm, "},
	} {
		got := breaches(map[string][]string{c.folder: {"fmt", module + c.imports}})
		if c.want == "" {
			require.Empty(t, got)
			continue
		}
		require.Len(t, got, 1, c.want)
		require.Contains(t, got[0], c.want)
	}
}

// TestOneDoorToKVM: gokvm's structures reach the project through vmm/kvm, which says which of them
// are right. Below integration/ are programs that must not depend on what they test.
func TestOneDoorToKVM(t *testing.T) {
	for folder, list := range listImports(t) {
		if folder == "vmm/kvm" || covers("integration/...", folder) {
			continue
		}
		for _, path := range list {
			require.NotContains(t, path, "gokvm", folder)
		}
	}
}

// TestVMMIsSmall: the program that runs machines takes along no experiments, and nothing that
// draws. They are vmm-bench's. Netlink stays in vmm for one question: whether all queues of a TAP
// interface are this process', which nothing but netlink answers.
func TestVMMIsSmall(t *testing.T) {
	const format = `{{if not .Standard}}{{.ImportPath}}{{end}}`
	list := func(program string) string {
		cmd := exec.Command("go", "list", "-deps", "-f", format, program)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	vmm, bench := list("./cmd/vmm"), list("./cmd/vmm-bench")
	for _, heavy := range []string{module + "bench", "gonum.org/v1/plot", "golang.org/x/image"} {
		require.False(t, strings.Contains(vmm, heavy), "vmm depends on %s", heavy)
		require.True(t, strings.Contains(bench, heavy), "vmm-bench depends on %s", heavy)
	}
}

// TestGuestIsSmall: a guest's program that vendors tagging/guest takes along the register layout,
// and nothing else of this project.
func TestGuestIsSmall(t *testing.T) {
	const format = `{{if not .Standard}}{{.ImportPath}}{{end}}`
	cmd := exec.Command("go", "list", "-deps", "-f", format, "./tagging/guest")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		module + "tagging/guest", module + "tagging/abi", "golang.org/x/sys/unix",
	}, strings.Fields(string(out)))
}

// TestTheTableIsTheDocuments compares with ARCHITECTURE.md: its table has the same folders, and its
// list says of each what it may import.
func TestTheTableIsTheDocuments(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	require.NoError(t, err)
	tableRow := regexp.MustCompile("(?m)^\\| `([a-z/.]+)` \\| ")
	item := regexp.MustCompile("(?m)^- `([a-z/.]+/(?:\\.\\.\\.)?)`: (.*(?:\\n  .*)*)$")
	var described []string
	for _, m := range tableRow.FindAllStringSubmatch(string(text), -1) {
		described = append(described, m[1])
	}
	var documented []row
	var folders []string
	for _, m := range item.FindAllStringSubmatch(string(text), -1) {
		may := strings.Join(strings.Fields(m[2]), " ")
		if may == "none" {
			may = "-"
		}
		documented = append(documented, row{folder: m[1], may: may})
		folders = append(folders, m[1])
	}
	require.Equal(t, table, documented)
	require.Equal(t, folders, described)
}

// TestNamedFilesExist: what ARCHITECTURE.md names in its tables of places and walks is there.
func TestNamedFilesExist(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	require.NoError(t, err)
	file := regexp.MustCompile("`([a-z0-9_/.-]+\\.(?:go|md|h))`")
	named := file.FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, named)
	for _, n := range named {
		if strings.Contains(n[1], "/") {
			require.FileExists(t, n[1])
		}
	}
}

// TestDocNamesEveryFile of the engine: whoever looks for something finds where it is.
func TestDocNamesEveryFile(t *testing.T) {
	for _, dir := range []string{"migration", "migration/peer", "migration/stream"} {
		doc, err := os.ReadFile(filepath.Join(dir, "doc.go"))
		require.NoError(t, err)
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			name := filepath.Base(file)
			if name != "doc.go" && !strings.HasSuffix(name, "_test.go") {
				require.Regexp(t, `(?m)^//\t`+name+` `, string(doc))
			}
		}
	}
}
