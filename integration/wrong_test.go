package integration

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// wrong is an order that cannot be carried out, the status that it ends with, and its whole output.
// {dir} is a folder with the files of wrongFiles. {long} is a path that is too long for a socket.
type wrong struct {
	args   string // separated by spaces, or by | if an argument has a space in it
	status int
	says   string
}

// wrongFiles makes the files that some of the orders name.
func wrongFiles(b *box) {
	b.t.Helper()
	for name, data := range map[string]string{"text": "#!/bin/sh\n", "cpu.json": "{}"} {
		require.NoError(b.t, os.WriteFile(b.path(name), []byte(data), 0o600))
	}
}

// words returns the arguments of an order.
func (w wrong) words(b *box) []string {
	args := inFull(b, w.args)
	if strings.Contains(args, "|") {
		return strings.Split(args, "|")
	}
	return strings.Fields(args)
}

// inFull replaces names in braces by their values.
func inFull(b *box, s string) string {
	long := strings.Repeat("/123456789", 11)
	return strings.NewReplacer("{dir}", b.dir, "{long}", long).Replace(s)
}

// TestWrongOrders: every mistake gives one line, which names it and says what to do. Status 2 is
// for orders that no host could carry out, 1 for those that this host cannot carry out now.
func TestWrongOrders(t *testing.T) {
	b := newBox(t)
	wrongFiles(b)
	seen := map[string]bool{}
	for _, w := range wrongOrders {
		require.False(t, seen[w.args], "twice: %s", w.args)
		seen[w.args] = true
		r := b.vmm(w.words(b)...)
		says := "vmm: " + inFull(b, w.says) + "\n"
		require.Equal(t, result{w.status, "", says}, r, w.args)
	}
	require.GreaterOrEqual(t, len(seen), 50)
}

// TestNamesThatWereMeant: an error suggests a similar name of a running VM, and never that of a VM
// that has ended.
func TestNamesThatWereMeant(t *testing.T) {
	b := newBox(t)
	gone := b.run(&guest{}, "web2", idle...)
	gone.awaitState(control.StateRunning)
	gone.kill()
	gone.wait()
	require.FileExists(t, b.path("web2.sock"))
	const none = "no such VM is running: vmm list shows those that are"
	require.Equal(t, "vmm: web3: "+none+"\n", b.refused(1, "status", "web3"))

	p := b.run(&guest{}, "web1", idle...)
	p.awaitState(control.StateRunning)
	for _, args := range [][]string{
		{"status", "web"}, {"tags", "wbe1"}, {"migrate", "Web1", "unix:/nowhere"},
	} {
		// A VM that a busy host keeps from answering at once is not suggested.
		want := "vmm: " + args[1] + ": " + none + "; did you mean web1?\n"
		b.until(want, func() bool { return b.refused(1, args...) == want })
	}
	require.Equal(t, "vmm: database: "+none+"\n", b.refused(1, "pause", "database"))
}

// wrongOrders cover every command.
var wrongOrders = []wrong{
	{"", 2, "no command given: see vmm --help"},
	{"fly", 2, `unknown command "fly": see vmm --help`},
	{"migrat", 2, `unknown command "migrat": did you mean vmm migrate?`},
	{"Status web1", 2, `unknown command "Status": did you mean vmm status?`},
	{"help migrat", 2, `unknown command "migrat": did you mean vmm migrate?`},
	{"help bench rnu", 2, `unknown command "rnu": did you mean vmm bench run?`},
	{"bench", 2, "no command given: see vmm bench --help"},
	{"bench rnu", 2, `unknown command "rnu": did you mean vmm bench run?`},
	{"bench run", 2,
		"vmm bench run wants the name of an experiment, as vmm bench list has them: see " +
			"vmm bench run --help"},
	{"bench run taging", 2,
		`experiment "taging" is unknown: use tagging, policies, validity, interrupt, sweep, ` +
			"overhead, peers, speed, disk, card, declared, moves, before or simulated; did you " +
			"mean tagging?"},
	{"bench run tagging --resume", 2, "--resume: say with --out which folder"},
	{"bench run tagging --repeat-noisy", 2,
		"--repeat-noisy: it is for a run that there is: add --resume and --out"},
	{"bench run sweep --policies xen", 2, "--policies: no effect on sweep: leave it out"},
	{"bench run policies --policies exec:{dir}/nowhere", 2,
		"--policies: exec: \"{dir}/nowhere\": stat {dir}/nowhere: no such file or directory"},
	{"bench run policies --guidance on", 2,
		`--guidance: "on" is unknown: use switchover, suspend, start or off`},
	{"bench run policies --against ring", 2,
		`--against: "ring" is no level that this run compares: use one of downtime, cycle, ` +
			"qemu, ramp, stall, xen, off, switchover, matmul, sort, kv, phased"},
	{"bench run policies -n 0", 2, "--repetitions 0: use 1 or more"},
	{"bench run tagging --seed -1", 2, `--seed: "-1": use a whole number from 0`},
	{"bench run tagging --qemu {dir}/nowhere", 2,
		"--qemu: tagging does not compare with QEMU: leave it out"},
	{"bench run speed --netns 1gbit", 2,
		"--netns: speed sees to its rates itself, over the loopback: leave it out"},
	{"bench run sweep --before vmm", 2, "--before: sweep compares with no other vmm: leave it out"},
	{"bench run before", 2,
		"before compares two builds of vmm: name the other one's program with --before"},
	{"bench run validity --netns fast", 2,
		`--netns: rate "fast": no number: use bit/s or kbit, Mbit, Gbit, as in 1Gbit`},
	{"bench custom", 2,
		"vmm bench custom wants the file of an experiment: see vmm bench custom --help"},
	{"bench custom {dir}/cpu.json", 2, "{dir}/cpu.json: guests: there is none"},
	{"bench custom {dir}/text", 2, "{dir}/text: it is empty"},
	{"bench speed tagging", 2,
		`vmm bench speed wants no arguments, only flags: "tagging" is too much: see vmm ` +
			"bench speed --help"},
	{"bench list all", 2,
		`vmm bench list wants no arguments: "all" is too much: see vmm bench list --help`},
	{"bench report", 2,
		"vmm bench report wants the folder of a run's results: see vmm bench report --help"},
	{"bench report {dir}/nowhere", 1,
		"{dir}/nowhere holds no results of vmm bench run: name the folder of a run"},
	{"completion", 2,
		"vmm completion wants the name of a shell: bash, zsh or fish: see vmm completion " +
			"--help"},
	{"completion tcsh", 2, `shell "tcsh" is unknown: use bash, zsh or fish`},
	{"completion fsh", 2, `shell "fsh" is unknown: use bash, zsh or fish; did you mean zsh?`},
	{"status", 2,
		"vmm status wants the name of a VM, or its control socket: see vmm status --help"},
	{"status web1 web2", 2,
		`vmm status wants the name of a VM, or its control socket: "web2" is too much: see ` +
			"vmm status --help"},
	{"status|web 1", 2,
		`name "web 1": use 1 to 64 letters, digits, '.', '_' or '-', beginning with a ` +
			"letter or digit"},
	{"status nobody", 1, "nobody: no such VM is running: vmm list shows those that are"},
	{"status {dir}/nowhere.sock", 1,
		"{dir}/nowhere.sock: no such VM is running: vmm list shows those that are"},
	{"status {long}", 2,
		"control socket: the path of a unix socket has at most 107 bytes, {long} has 110: " +
			"use a shorter one (VMM_RUNTIME_DIR, or --api of vmm run)"},
	{"pause nobody", 1, "nobody: no such VM is running: vmm list shows those that are"},
	{"pause nobody --force", 2, "unknown flag --force: see vmm pause --help"},
	{"resume nobody --forse", 2, "unknown flag --forse: did you mean --force?"},
	{"stop -f nobody", 2, "unknown flag -f: see vmm stop --help"},
	{"cancel", 2,
		"vmm cancel wants the name of a VM, or its control socket: see vmm cancel --help"},
	{"tags nobody --json=perhaps", 2, `--json: "perhaps": use true or false`},
	{"tags nobody -folow", 2, "unknown flag -folow: did you mean --follow?"},
	{"list running", 2, `vmm list wants no arguments: "running" is too much: see vmm list --help`},
	{"list ---json", 2, `"---json" is no flag: see vmm list --help`},
	{"doctor --cpu --json", 2, "--json with --cpu: a CPU file is JSON anyway, leave --json out"},
	{"version --short", 2, "unknown flag --short: see vmm version --help"},
	{"run web1", 2,
		`vmm run wants no arguments, only flags: "web1" is too much: see vmm run --help`},
	{"run --memory", 2, "--memory: no value given: see vmm run --help"},
	{"run --memory much", 2,
		`--memory: size "much": no number: use bytes or K, M, G, T, as in 512M`},
	{"run --memory 512", 2,
		"--memory: invalid memory size: 512 bytes is less than the minimum of 16M: use " +
			"whole megabytes, as in 512M"},
	{"run --memory 512MB", 2,
		`--memory: size "512MB": unknown unit "MB": use bytes or K, M, G, T, as in 512M`},
	{"run --memory 20000001", 2,
		"--memory: invalid memory size: 20000001 bytes is not a multiple of 1M: use whole " +
			"megabytes, as in 512M"},
	{"run --memory 1K", 2,
		"--memory: invalid memory size: 1024 bytes is less than the minimum of 16M: use " +
			"whole megabytes, as in 512M"},
	{"run --memory 4096G", 2,
		"--memory: invalid memory size: 4398046511104 bytes is more than the maximum of " +
			"1024G: use whole megabytes, as in 512M"},
	{"run --memory -512M", 2,
		`--memory: size "-512M": no number: use bytes or K, M, G, T, as in 512M`},
	{"run --cpus two", 2, `--cpus: "two": use a whole number`},
	{"run --cpus 9", 2, "--cpus 9: use 1 to 8"},
	{"run --cpus 99999999999999999999", 2,
		`--cpus: "99999999999999999999" is too large: use a smaller number`},
	{"run --cpu host,", 2, `--cpu "host,": want host or files of vmm doctor --cpu, and commas`},
	{"run --cpu {dir}/nowhere.json", 1, "--cpu: {dir}/nowhere.json: there is no such file"},
	{"run --cpu {dir}/cpu.json", 1,
		"--cpu: {dir}/cpu.json: not a CPU file of vmm doctor --cpu: version 0, this " +
			"program knows version 1"},
	{"run --console tty", 2, `console "tty": use stdio, file:PATH or off`},
	{"run --hvc tty", 2, `second console "tty": use off, stdio, file:PATH or unix:PATH`},
	{"run --hvc stdio", 2,
		"second console on stdio, where COM1 is: use --console off or file:PATH"},
	{"run --initrd {dir}/text", 2, "--initrd without --kernel: the embedded guest takes none"},
	{"run --name ../x", 2,
		`name "../x": use 1 to 64 letters, digits, '.', '_' or '-', beginning with a ` +
			"letter or digit"},
	{"run --dirty-log rings", 2,
		`--dirty-log: "rings" is unknown: use auto, get-dirty-log, manual-protect or ring; ` +
			"did you mean ring?"},
	{"run --moved-status 256", 2, "--moved-status 256: use 0 to 255"},
	{"run --kernel {dir}/nowhere", 1, "kernel: {dir}/nowhere: there is no such file"},
	{"run --kernel {dir}/text", 1,
		"{dir}/text: cannot boot this kernel: it is neither an ELF file nor a Linux bzImage, " +
			"and has no multiboot header"},
	{"run --kernel {dir}", 1, "kernel: {dir}: it is a directory: name a file in it"},
	{"run --incoming udp:h:1", 2,
		`--incoming: invalid address "udp:h:1": use tcp:HOST:PORT or unix:PATH`},
	{"run --incoming tcp:[fe80::1]:1", 2,
		`--incoming: invalid address "tcp:[fe80::1]:1": a link-local address needs its ` +
			"interface: add it, as in tcp:[fe80::1%eth0]:1"},
	{"run --tls-dir {dir}", 2, "--tls-dir without --incoming: it is about incoming migrations"},
	{"run --prefault=yes", 2, `--prefault: "yes": use true or false`},
	{"run --bandwidth 1Gbit", 2, "unknown flag --bandwidth: see vmm run --help"},
	{"migrate web1", 2, "vmm migrate wants a VM and a destination: see vmm migrate --help"},
	{"migrate web1 here", 2, `invalid address "here": use tcp:HOST:PORT or unix:PATH`},
	{"migrate web1 unix:{dir}/in there", 2,
		`vmm migrate wants a VM and a destination: "there" is too much: see vmm migrate ` +
			"--help"},
	{"migrate nobody unix:{dir}/in", 1,
		"nobody: no such VM is running: vmm list shows those that are"},
	{"migrate web1 tcp:127.0.0.1", 2,
		`invalid address "tcp:127.0.0.1": use tcp:HOST:PORT or unix:PATH`},
	{"migrate web1 unix:{dir}/in --policy best", 2,
		`--policy: "best" is unknown: use one of downtime, cycle, qemu, ramp, stall, xen, ` +
			"or exec:PROGRAM"},
	{"migrate web1 unix:{dir}/in --policy downtme", 2,
		`--policy: "downtme" is unknown: use one of downtime, cycle, qemu, ramp, stall, xen, or ` +
			"exec:PROGRAM; did you mean downtime?"},
	{"migrate web1 unix:{dir}/in --policy xen:polish=no", 2,
		`--policy: "xen:polish=no": polish "no": use on or off`},
	{"migrate web1 unix:{dir}/in --policy xen:limit=1s", 2,
		`--policy: "xen:limit=1s": no parameter "limit": use max-rounds, skip, protect, ` +
			"polish"},
	{"migrate web1 unix:{dir}/in --policy xen:max-round=3", 2,
		`--policy: "xen:max-round=3": no parameter "max-round": use max-rounds, skip, ` +
			"protect, polish; did you mean max-rounds?"},
	{"migrate web1 unix:{dir}/in --policy xen:skip", 2,
		`--policy: "xen:skip": "skip": want NAME=VALUE`},
	{"migrate web1 unix:{dir}/in --policy downtime:limit=3", 2,
		`--policy: "downtime:limit=3": limit "3": want a duration, as in 300ms`},
	{"migrate web1 unix:{dir}/in --policy xen --rule xen", 2,
		"--policy and --rule are the same: use one of them"},
	{"migrate web1 unix:{dir}/in --guidance swichover", 2,
		`--guidance: "swichover" is unknown: use switchover, suspend, start or off; did ` +
			"you mean switchover?"},
	{"migrate web1 unix:{dir}/in --gate most", 2, `--gate: "most" is unknown: use all or any`},
	{"migrate web1 unix:{dir}/in --on-timeout wait", 2,
		`--on-timeout: "wait" is unknown: use force or cancel`},
	{"migrate web1 unix:{dir}/in --compress gzip", 2,
		`--compress: "gzip" is unknown: use auto, zstd or none`},
	{"migrate web1 unix:{dir}/in --bandwidth 1G", 2,
		`--bandwidth: rate "1G": unknown unit "G": use bit/s or kbit, Mbit, Gbit, as in ` +
			"1Gbit"},
	{"migrate web1 unix:{dir}/in --bandwidth 0", 2,
		"--bandwidth 0: nothing would be sent: leave it out for no limit"},
	{"migrate web1 unix:{dir}/in --bandwith 1gbit", 2,
		"unknown flag --bandwith: did you mean --bandwidth?"},
	{"migrate web1 unix:{dir}/in --channels 0", 2, "--channels 0: use 1 to 16"},
	{"migrate web1 unix:{dir}/in --channels 17", 2, "--channels 17: use 1 to 16"},
	{"migrate web1 unix:{dir}/in --max-rounds -1", 2,
		"--max-rounds -1: use 1 or more, or 0 for the policy's default"},
	{"migrate web1 unix:{dir}/in --max-defer 3", 2,
		`--max-defer: duration "3": no unit: use ms, s, m or h, as in 300ms or 1m30s`},
	{"migrate web1 unix:{dir}/in --downtime-limit -1s", 2,
		`--downtime-limit: duration "-1s" is negative: use 0 or more`},
	{"migrate web1 unix:{dir}/in --downtime-limit soon", 2,
		`--downtime-limit: duration "soon": not a duration: use ms, s, m or h, as in 300ms ` +
			"or 1m30s"},
	{"migrate web1 unix:{dir}/in --standstill-retries 0", 2,
		"--standstill-retries 0: use 1 or more; with 1 the migration fails with the first"},
	{"migrate web1 unix:{dir}/in --standstill-limit 1d", 2,
		`--standstill-limit: duration "1d": not a duration: use ms, s, m or h, as in 300ms ` +
			"or 1m30s"},
	{"tls", 2, "no command given: see vmm tls --help"},
	{"tls int", 2, `unknown command "int": did you mean vmm tls init?`},
	{"tls init", 2, "vmm tls init wants a directory: see vmm tls init --help"},
	{"tls|init||--host|a", 2, "vmm tls init wants a directory: see vmm tls init --help"},
	{"tls init {dir}/certs --host web1 --host WEB1", 2, "--host WEB1 is there twice: " +
		"give all its names at once, with commas between"},
	{"tls init {dir}/certs", 2, "vmm tls init without --host: name the hosts that move guests"},
	{"tls init {dir}/certs --host ,", 2,
		`--host: host "": use a host name or an IP address, several of one host with ` +
			"commas between"},
	{"debug", 2, "vmm debug wants the name of a VM, or its control socket: see vmm debug --help"},
	{"debug nobody", 1, "nobody: no such VM is running: vmm list shows those that are"},
	{"run --incoming tcp:0.0.0.0:99999", 2,
		`--incoming: invalid address "tcp:0.0.0.0:99999": port "99999" is no number from 0 ` +
			"to 65535"},
	{"run --incoming tcp:0.0.0.0:1", 2,
		"--incoming: plain text at 0.0.0.0: others on the network could read and change " +
			"the guest: use --tls-dir (vmm tls init makes its files), or --insecure"},
	{"run --incoming tcp:0.0.0.0:1 --tls-dir {dir} --insecure", 2,
		"--insecure with --tls-dir: use one of them"},
	{"run --insecure", 2, "--insecure without --incoming: it is about incoming migrations"},
	{"run --allow web1", 2, "--allow without --tls-dir: nobody has a name in plain text"},
	{"migrate web1 tcp:10.0.0.2:1", 2,
		"plain text at 10.0.0.2: others on the network could read and change the guest: " +
			"use --tls-dir (vmm tls init makes its files), or --insecure"},
	{"migrate web1 tcp:10.0.0.2:1 --insecure --tls-dir {dir}", 2,
		"--insecure with --tls-dir: use one of them"},
	{"run --log-level loud", 2, `--log-level: "loud" is unknown: use info, debug, warn or error`},
	{"run --log-format xml", 2, `--log-format: "xml" is unknown: use text or json`},
	{"run --log-file {dir}/nowhere/log", 1,
		"log: {dir}/nowhere/log: its folder is not there: make it first"},
	{"run --disk ,readonly", 2,
		"--disk: want a file: FILE[,readonly][,cache=auto|direct|host][,lock=ofd|none]"},
	{"run --disk {dir}/nowhere", 1,
		"disk {dir}/nowhere: there is no such file: make one, for instance with truncate " +
			"-s 1G"},
	{"run --disk {dir}/text,cache=never", 2,
		`--disk: "never" is unknown: use auto, direct or host`},
	{"run --disk {dir}/text,size=1", 2,
		`--disk: option "size=1": use readonly, cache=auto|direct|host or lock=ofd|none`},
	{"run --disk {dir}/text,lock", 2, `--disk: "" is unknown: use ofd or none`},
	{"run --net tap0", 2,
		`--net: "tap0": want tap:IFNAME[,mac=MAC][,queues=N] or unix:PATH[,mac=MAC]`},
	{"run --net tap:tap0,mac=1", 2,
		`--net: "1" is no MAC address: give six bytes, as in 02:00:00:00:00:01`},
	{"run --net tap:nobodys0", 1,
		"network card tap:nobodys0: there is no such interface: make one with " +
			"ip tuntap add dev nobodys0 mode tap user $USER"},
	{"run --shutdown-timeout 5", 2,
		`--shutdown-timeout: duration "5": no unit: use ms, s, m or h, as in 300ms or 1m30s`},
	{"stop nobody --nwo", 2, "unknown flag --nwo: did you mean --now?"},
}
