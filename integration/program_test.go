package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
)

// TestPolicyPrograms: a program moves a guest, guided and not, another one looks on as a shadow,
// and one that hangs, lies or dies harms nothing.
func TestPolicyPrograms(t *testing.T) {
	v := newBox(t).travel(1, phased(1, "busy=400ms cool=400ms tag=cool")...)
	compiled := filepath.Join(v.dir, "plateau-go")
	build := exec.CommandContext(v.ctx, "go", "build", "-o", compiled, ".")
	build.Dir = "../examples/policies/plateau-go"
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	python, err := filepath.Abs("../examples/policies/plateau.py")
	require.NoError(t, err)
	script := func(name, body string) string {
		path := filepath.Join(v.dir, name)
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
		return path
	}
	// A program that is late three times in a row is given up. On a busy host each may be.
	answers := filepath.Join(v.dir, "answers") // of a shadow
	inTime := func(args ...string) migration.Report {
		for {
			_ = os.Remove(answers)
			r := v.move(append(args, "--bandwidth", link)...)
			late := strings.Contains(r.PolicyError, "it was late")
			for _, s := range r.Shadows {
				late = late || strings.Contains(s.Error, "it was late")
			}
			if !late {
				return r
			}
		}
	}
	for program, guidance := range map[string]migration.Guidance{
		compiled: migration.GuidanceSwitchover, python: migration.GuidanceOff,
	} {
		good := inTime("--policy", "exec:"+program, "--guidance", string(guidance))
		require.Equal(t, "exec:"+program, good.Policy)
		require.EqualValues(t, "exec", good.Rule)
		require.Equal(t, guidance, good.Guidance)
		require.Empty(t, good.PolicyError)
	}

	// Nothing waits for a shadow, so this leader does, for a while.
	shadow := script("shadow", compiled+" | tee "+answers)
	leader := script("leader", "n=0; while [ ! -s "+answers+` ] && [ $n -lt 50 ] && read line; do
		case $line in *'"question"'*) n=$((n+1)); echo '{"action":"suspend"}';; esac
	done
	exec `+compiled)
	good := inTime("--policy", "exec:"+leader, "--shadow", "xen,exec:"+shadow, "--guidance", "off")
	require.Equal(t, "exec:"+leader, good.Policy)
	require.Len(t, good.Shadows, 2)
	require.Equal(t, "exec:"+shadow, good.Shadows[1].Policy)
	require.Empty(t, good.Shadows[1].Error, "it is told what a leader is told")
	require.Positive(t, good.Shadows[1].Asked)

	for name, body := range map[string]string{
		"hangs": "sleep 1000",
		"lies":  `echo '{"action":"jump"}'; sleep 1000`,
		"dies":  "exit 3",
	} {
		r := v.move("--policy", "exec:"+script(name, body), "--bandwidth", link)
		require.NotEmpty(t, r.PolicyError, name)
		require.Equal(t, migration.StatusCompleted, r.Status)
		require.Contains(t, strings.Join(r.Warnings, "\n"), r.PolicyError)
	}
	v.carriesOn()
}

// TestCancelKillsThePolicyProgram, with its children.
func TestCancelKillsThePolicyProgram(t *testing.T) {
	v := newBox(t).travel(1, phased(1, "busy=400ms cool=400ms tag=cool")...)
	pids := filepath.Join(v.dir, "pids")
	path := filepath.Join(v.dir, "waits")
	body := "#!/bin/sh\nsleep 1000 &\necho $$ $! > " + pids + ".new; mv " + pids + ".new " + pids +
		"\nwhile read line; do echo '{\"action\":\"suspend\"}'; done\nwait\n"
	require.NoError(t, os.WriteFile(path, []byte(body), 0o755))
	_, moved := v.background(v.order("--policy", "exec:"+path, "--guidance", "off",
		"--bandwidth", "1Mbit")...) // it is still in round 1 when it is cancelled
	require.Eventually(t, func() bool { _, err := os.Stat(pids); return err == nil }, time.Minute,
		10*time.Millisecond)
	v.ok("cancel", v.here.name)
	require.NotZero(t, moved().status)
	b, err := os.ReadFile(pids)
	require.NoError(t, err)
	for _, pid := range strings.Fields(string(b)) {
		require.Eventually(t, func() bool { return !lives(pid) }, time.Minute, 10*time.Millisecond)
	}
	v.carriesOn()
}

// lives tells whether a process is there and no zombie.
func lives(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}
