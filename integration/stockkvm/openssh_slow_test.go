//go:build stockkvm

package stockkvm

import (
	"debug/elf"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// sshdConfig lets root in by key, and needs no PAM.
const sshdConfig = `HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/user_key.pub
PermitRootLogin yes
StrictModes no
UsePAM no
`

// sshConfig is the user's. The hosts' keys are not what is tested.
const sshConfig = `IdentityFile /etc/ssh/user_key
StrictHostKeyChecking accept-new
UserKnownHostsFile /tmp/known_hosts
LogLevel ERROR
`

// loader is the path of a program's loader, as its ELF file names it.
const loader = "/lib64/ld-linux-x86-64.so.2"

// openSSH lists the files of Debian's OpenSSH, with its libraries, one key for both hosts, and one
// for their user.
func openSSH(t *testing.T) []File {
	t.Helper()
	cache, err := CacheDir()
	require.NoError(t, err)
	root, err := FetchWithDependencies(t.Context(), filepath.Join(cache, "stockkvm"),
		"openssh-server", "openssh-client")
	require.NoError(t, err)
	files := map[string]string{loader: filepath.Join(root, loader)}
	for _, program := range []string{"/usr/sbin/sshd", "/usr/bin/ssh"} {
		target := path.Join("/bin", path.Base(program))
		files[target] = filepath.Join(root, program)
		addLibraries(t, root, files[target], files)
	}
	all := []File{
		Content("/etc/passwd", 0o644,
			[]byte("root:x:0:0:root:/root:/bin/sh\nsshd:x:100:100::/run/sshd:/bin/false\n")),
		Content("/etc/group", 0o644, []byte("root:x:0:\nsshd:x:100:\n")),
		Content("/etc/ssh/sshd_config", 0o644, []byte(sshdConfig)),
		Content("/etc/ssh/ssh_config", 0o644, []byte(sshConfig)),
		{Target: "/run/sshd", kind: directory, perm: 0o755},
	}
	for target, source := range files {
		all = append(all, File{Source: source, Target: target})
	}
	keys := t.TempDir()
	for _, name := range []string{"host_key", "user_key"} {
		key := filepath.Join(keys, name)
		out, err := exec.Command(filepath.Join(root, loader), "--library-path", libraryPath(root),
			filepath.Join(root, "/usr/bin/ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key).
			CombinedOutput()
		require.NoError(t, err, string(out))
		for _, suffix := range []string{"", ".pub"} {
			all = append(all, File{Source: key + suffix, Target: "/etc/ssh/" + name + suffix})
		}
	}
	return all
}

// libraryFolders are where Debian has libraries.
var libraryFolders = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"}

func libraryPath(root string) string {
	path := ""
	for _, dir := range libraryFolders {
		path += filepath.Join(root, dir) + ":"
	}
	return path
}

// addLibraries adds the libraries of an ELF file, and theirs, to files: sources by their targets.
func addLibraries(t *testing.T, root, file string, files map[string]string) {
	t.Helper()
	f, err := elf.Open(file)
	require.NoError(t, err)
	defer f.Close()
	names, err := f.ImportedLibraries()
	require.NoError(t, err)
	for _, name := range names {
		for _, dir := range libraryFolders {
			target := filepath.Join(dir, name)
			source := filepath.Join(root, target)
			if _, err := os.Stat(source); err != nil || files[target] != "" {
				continue
			}
			files[target] = source
			addLibraries(t, root, source, files)
		}
	}
}
