package integration

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// installed returns the files below a folder with their permissions.
func installed(t *testing.T, root string) map[string]fs.FileMode {
	t.Helper()
	files := map[string]fs.FileMode{}
	require.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		files["/"+strings.TrimPrefix(path, root+"/")] = info.Mode()
		return err
	}))
	return files
}

// TestInstall: make install puts files where shells and man look, and make uninstall removes all of
// them.
func TestInstall(t *testing.T) {
	b := newBox(t)
	root := b.path("root")
	run := func(target string) {
		t.Helper()
		cmd := exec.CommandContext(b.ctx, "make", "-C", "..", target, "VCS=false",
			"STAGE="+b.path("stage"), "DESTDIR="+root, "PREFIX=/usr")
		cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=86400", "TZ=America/New_York")
		r := b.finish(cmd)
		require.Equal(t, 0, r.status, r.stderr)
	}
	run("install")
	files := installed(t, root)
	pages := 0
	for path, mode := range files {
		want := fs.FileMode(0o644)
		if strings.HasPrefix(path, "/usr/bin/") {
			want = 0o755
		}
		require.Equal(t, want, mode, path)
		if strings.HasPrefix(path, "/usr/share/man/man1/vmm") {
			pages++
			page, err := os.ReadFile(root + path)
			require.NoError(t, err)
			require.Contains(t, string(page), `"Jan 1970"`, "%s has the date of the sources", path)
			requireMan(t, root+path)
		}
	}
	for _, path := range []string{
		"/usr/bin/vmm", "/usr/bin/vmm-bench", "/usr/bin/vmm-tag", "/usr/bin/stockkvm",
		"/usr/share/man/man1/vmm.1", "/usr/share/man/man1/vmm-migrate.1",
		"/usr/share/man/man1/vmm-bench-run.1", "/usr/share/bash-completion/completions/vmm",
		"/usr/share/zsh/site-functions/_vmm", "/usr/share/fish/vendor_completions.d/vmm.fish",
		"/usr/share/man/man1/vmm-tag.1", "/usr/share/bash-completion/completions/vmm-tag",
		"/usr/share/zsh/site-functions/_vmm-tag",
		"/usr/share/fish/vendor_completions.d/vmm-tag.fish", "/usr/include/vmm/tag.h",
	} {
		require.Contains(t, files, path)
	}
	require.GreaterOrEqual(t, pages, 18, "a page for each command")
	require.NotContains(t, files, "/usr/share/man/man1/vmm-man.1", "it is not shipped")

	out, err := exec.CommandContext(b.ctx, root+"/usr/bin/vmm", "--version").Output()
	require.NoError(t, err)
	require.Equal(t, "vmm devel\n", string(out))
	requireStatic(t, root+"/usr/bin/vmm-tag")
	requireBench(t, b, root)
	require.NoError(t, exec.CommandContext(b.ctx, "bash", "-n",
		root+"/usr/share/bash-completion/completions/vmm").Run())
	requireCompletes(t, root+"/usr/share/bash-completion/completions/vmm-tag")

	stranger := root + "/usr/bin/other"
	require.NoError(t, os.WriteFile(stranger, nil, 0o600))
	run("uninstall")
	left := installed(t, root)
	require.Equal(t, map[string]fs.FileMode{"/usr/bin/other": 0o600}, left)
}

// requireBench: the installed vmm has the commands of the installed vmm-bench, and shells complete
// them.
func requireBench(t *testing.T, b *box, root string) {
	t.Helper()
	for args, want := range map[string]string{
		"bench list": "tagging ", "bench run --help": "Usage:\n  vmm bench run NAME [flags]\n",
		"help bench speed": "vmm bench speed", "__complete bench run tag": "tagging\t",
		"__complete bench run tagging --res": "--resume\t",
	} {
		cmd := exec.CommandContext(b.ctx, root+"/usr/bin/vmm", strings.Fields(args)...)
		out, err := cmd.Output()
		require.NoError(t, err, args)
		require.Contains(t, string(out), want, args)
	}
	page, err := os.ReadFile(root + "/usr/share/man/man1/vmm-bench.1")
	require.NoError(t, err)
	require.Contains(t, string(page), "vmm-bench-report(1)", "it is vmm-bench's, not vmm's own")
}

// requireStatic fails if a program needs an interpreter: users copy vmm-tag into guests that may
// have no libraries.
func requireStatic(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	require.NoError(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		require.NotEqual(t, elf.PT_INTERP, p.Type, "%s is not static", program)
	}
}

// requireMan has man read a page, if man is installed. It must find no fault, and write nothing
// wider than a terminal.
func requireMan(t *testing.T, page string) {
	t.Helper()
	if _, err := exec.LookPath("man"); err != nil {
		return // the generator's own tests must suffice
	}
	cmd := exec.CommandContext(t.Context(), "man", "--warnings", "--local-file", page)
	cmd.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8", "MANPAGER=cat")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run())
	require.Empty(t, stderr.String(), page)
	require.Contains(t, stdout.String(), "DESCRIPTION")
	require.NotRegexp(t, `--[a-z-]+=0\s`, stdout.String(), "0 stands for what the text says")
	for line := range strings.Lines(stdout.String()) {
		require.LessOrEqual(t, utf8.RuneCountInString(line), 81, line)
	}
}

// requireCompletes has bash complete command lines of vmm-tag.
func requireCompletes(t *testing.T, script string) {
	t.Helper()
	for line, want := range map[string]string{
		"vmm-tag e": "exec enter exit", "vmm-tag status --": "--socket --json",
		"vmm-tag exec --w": "--while", "vmm-tag exec --b": "--between",
	} {
		cmd := exec.CommandContext(t.Context(), "bash", "-c",
			`source "$1"; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _vmm_tag
			echo "${COMPREPLY[*]}"`, "bash", script, line)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, want, strings.TrimSpace(string(out)), line)
	}
}
