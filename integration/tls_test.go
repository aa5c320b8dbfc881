package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/migration"
)

// certificates makes a CA and a pair for each host. It returns the directory of the first host.
func (b *box) certificates(dir string, hosts ...string) string {
	b.t.Helper()
	args := []string{"tls", "init", b.path(dir)}
	for _, h := range hosts {
		args = append(args, "--host", h)
	}
	b.ok(args...)
	name, _, _ := strings.Cut(hosts[0], ",")
	return filepath.Join(b.path(dir), name)
}

func TestTLS(t *testing.T) {
	b := newBox(t)
	ours := b.certificates("ours", "localhost,127.0.0.1")
	theirs := b.certificates("theirs", "localhost,127.0.0.1")
	g := &guest{}
	source := b.run(g, "source", idle...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0", "--tls-dir", ours)
	for _, args := range [][]string{
		nil,                    // without TLS
		{"--tls-dir", theirs},  // by another CA
		{"--tls-dir", b.dir},   // no certificates
		{"--tls-dir", "/none"}, // no directory
	} {
		b.refused(1, append([]string{"migrate", "source", to}, args...)...)
		source.untouched()
		require.Equal(t, control.StateIncoming, destination.vm().State)
	}
	plain, toPlain := b.incoming(&guest{}, "plain", "tcp:127.0.0.1:0")
	b.refused(1, "migrate", "source", toPlain, "--tls-dir", ours)
	source.untouched()
	require.Equal(t, control.StateIncoming, plain.vm().State)

	requireVerified(t, b.migrate("source", to, "--tls-dir", ours, "--verify", "--channels", "3"))
	require.Equal(t, 0, source.wait())
	g.alive(b, 2)
}

// TestWhoMaySend: the destination takes guests only from the named hosts, and logs other attempts.
func TestWhoMaySend(t *testing.T) {
	b := newBox(t)
	here := b.certificates("certs", "here,127.0.0.1", "web1", "web2")
	certs := filepath.Dir(here)
	stranger := b.certificates("others", "stranger")
	ca, err := os.ReadFile(here + "/ca.pem")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(stranger+"/ca.pem", ca, 0o600)) // it trusts the right CA

	g := &guest{}
	source := b.run(g, "source", idle...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0",
		"--tls-dir", here, "--allow", "web1")
	says := b.refused(1, "migrate", "source", to, "--tls-dir", certs+"/web2")
	require.Contains(t, says, "not allowed to send guests here: the source is web2")
	says = b.refused(1, "migrate", "source", to, "--tls-dir", stranger)
	require.Contains(t, says, "trusts another CA")
	source.untouched()
	require.Equal(t, control.StateIncoming, destination.vm().State)
	destination.says("the source is web2")
	destination.says("another CA")
	log := destination.stderr.String()
	away := `turned an incoming connection away" .*peer=127\.0\.0\.1:\d+ %s error=".*%s`
	require.Regexp(t, fmt.Sprintf(away, "name=web2", "the source is web2"), log)
	require.Regexp(t, fmt.Sprintf(away, "claims=stranger", "another CA"), log)

	requireVerified(t, b.migrate("source", to, "--tls-dir", certs+"/web1", "--verify"))
	require.Equal(t, 0, source.wait())
	g.alive(b, 2)
}

// elsewhere is an order that is refused, because it sends plain text to another host.
var elsewhere = migration.Params{Destination: "tcp:192.0.2.1:1"}

// TestPlainTextOffThisHost: the VM's process, too, refuses it, whoever asks.
func TestPlainTextOffThisHost(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", idle...)
	g.alive(b, 1)
	_, err := source.client().StartMigration(b.ctx, elsewhere)
	var refused *control.StatusError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 400, refused.Code)
	require.Contains(t, refused.Message, "plain text at 192.0.2.1")
	source.untouched()
}
