package remote

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"
)

// sshProgram is looked for in $PATH, so the user's configuration, keys and agent count.
const sshProgram = "ssh"

// sshArgs are the arguments of an ssh that runs a script at a host. It must not ask for anything,
// because it has no terminal: the controller's signals are not for it. Forwardings that the user's
// configuration asks for would fail for the second connection. A host that does not answer is given
// up, because a copy to it would wait for ever.
func sshArgs(host, script string) []string {
	return []string{
		"-T", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes",
		"-o", fmt.Sprintf("ConnectTimeout=%.0f", patience.Seconds()),
		"-o", fmt.Sprintf("ServerAliveInterval=%.0f", (patience / 4).Seconds()), host,
		"exec sh -c " + quote(script),
	}
}

// quote makes one word for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// uploadScript makes a folder, and in it a program of its standard input, which has so many bytes.
// It prints the folder's path. If the connection is lost on the way, nothing stays.
func uploadScript(size int64) string {
	return fmt.Sprintf(`umask 077; d=$(mktemp -d "${TMPDIR:-/tmp}/%[3]sXXXXXX") || exit 1; `+
		`cat >"$d/%[1]s" && [ "$(wc -c <"$d/%[1]s")" -eq %[2]d ] && chmod 700 "$d/%[1]s" && `+
		`printf '\n%%s\n' "$d" || { rm -rf "$d"; exit 1; }`, agentFile, size, folderName)
}

// agentFile is this program's name in the agent's folder.
const agentFile = "vmm-bench"

// startScript starts the agent. If it does not start, its folder goes.
func startScript(dir string, command []string) string {
	words := []string{quote(dir + "/" + agentFile)}
	for _, w := range append(command, dir) {
		words = append(words, quote(w))
	}
	return strings.Join(words, " ") + "; s=$?; rm -rf " + quote(dir) + "; exit $s"
}

// lastWords is how long to wait for what an ssh that has ended has printed. A program that it left
// behind, as ControlPersist does, may have its standard error and never close it.
const lastWords = time.Second

// newSSH makes the command. The ssh program ends with the controller.
func newSSH(ctx context.Context, host, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, sshProgram, sshArgs(host, script)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = lastWords
	return cmd
}

// errNoFolder is of a host whose shell printed no path.
var errNoFolder = errors.New("its shell made no folder")

// upload copies this program to a host, and returns the folder in which it is. It fails if the host
// takes nothing for so long.
func upload(ctx context.Context, host string, still time.Duration) (dir string, err error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer self.Close()
	info, err := self.Stat()
	if err != nil {
		return "", err
	}
	ctx, w := watchFor(ctx, still)
	defer w.stop()
	cmd := newSSH(ctx, host, uploadScript(info.Size()))
	var stdout chatter
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = w.reader(self), &stdout, &stderr
	if err = cmd.Run(); errors.Is(err, exec.ErrWaitDelay) {
		err = nil // all went well, and a program that it left behind has its pipes
	}
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errStill):
		return "", explain(context.Cause(ctx), stderr.String())
	case stdout.endless:
		return "", errEndless
	case err != nil:
		return "", explain(err, stderr.String())
	}
	// A login script may print something before.
	said := strings.TrimSpace(stdout.said.String())
	dir = said[strings.LastIndexByte(said, '\n')+1:]
	if !isFolder(dir) {
		return "", fmt.Errorf("%w, and said %q", errNoFolder, dir)
	}
	return dir, nil
}

// folderName is how an agent's folder begins. mktemp puts some letters behind it.
const folderName = "vmm-bench."

// isFolder tells whether uploadScript made a folder of that path. It is removed in the end, so what
// something else at the host printed must never be taken for it.
func isFolder(dir string) bool {
	name := path.Base(dir)
	return path.IsAbs(dir) && !strings.ContainsRune(dir, 0) &&
		strings.HasPrefix(name, folderName) && len(name) == len(folderName+"XXXXXX")
}

// greeting is the line with which the agent begins.
const greeting = "vmm-bench at work\n"

// mostChatter bounds what a login script may print.
const mostChatter = 1 << 20

var errEndless = errors.New("a login script there prints without end")

// chatter keeps what is printed, up to mostChatter. More is an error, which ends the ssh.
type chatter struct {
	said    bytes.Buffer // not embedded: its ReadFrom has no bound
	endless bool
}

func (c *chatter) Write(p []byte) (int, error) {
	if c.endless = c.endless || c.said.Len()+len(p) > mostChatter; c.endless {
		return 0, errEndless
	}
	return c.said.Write(p)
}

// skipChatter reads what comes before the agent's own output, and its greeting.
func skipChatter(out *bufio.Reader) error {
	for n := 0; n < mostChatter; {
		line, err := out.ReadSlice('\n')
		switch {
		case strings.HasSuffix(string(line), greeting): // the script may end without a new line
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("wait for the agent: %w", err)
		}
		n += len(line)
	}
	return errEndless
}

// explain adds what ssh said to an error.
func explain(err error, stderr string) error {
	if said := strings.Join(strings.Fields(stderr), " "); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}
