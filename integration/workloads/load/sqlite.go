package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// The shape of the load on a database: rows of a transaction, of the table, and in a transaction's
// way through it. The stride has no divisor in common with the table, so that a transaction has no
// row twice.
const (
	transactionRows = 2000
	tableRows       = 40_000
	stride          = 7919
	rowBytes        = 500

	warmTransactions = 3  // before the load is warm
	checkEvery       = 20 // transactions
)

// shell is sqlite's, which answers on standard output.
type shell struct {
	to   io.Writer
	from *bufio.Scanner
}

// startShell starts sqlite's shell on a database. It ends at the first error.
func startShell(database string) (*shell, error) {
	cmd := exec.Command("sqlite3", "-batch", "-bail", database)
	cmd.Stderr = os.Stderr
	to, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &shell{to, bufio.NewScanner(from)}, cmd.Start()
}

// ask has the shell carry out statements, whose one line of output must be that one.
func (s *shell) ask(want, format string, args ...any) error {
	if _, err := fmt.Fprintf(s.to, format+"\n", args...); err != nil {
		return err
	}
	if !s.from.Scan() {
		return fmt.Errorf("sqlite3 has ended where %q was due", want)
	}
	if got := s.from.Text(); got != want {
		return fmt.Errorf("sqlite3 says %q where %q was due", got, want)
	}
	return nil
}

// sqlite commits one transaction after the other, as long as goOn says so, and checks the database
// and the last transaction now and then. A request is a transaction: what a user waits for.
func sqlite(m *meter, s *shell, goOn func() bool) error {
	err := s.ask("new", "create table if not exists t(k integer primary key, n integer, v blob); "+
		"select 'new';")
	for n := 0; err == nil && goOn(); n++ {
		if n == warmTransactions {
			m.ready()
		}
		err = s.transaction(m, n)
		if err == nil && n%checkEvery == 0 {
			err = s.check(n)
			m.rested()
		}
	}
	return err
}

// transaction writes as many rows with the transaction's number, and counts as a request.
func (s *shell) transaction(m *meter, n int) error {
	m.writes += transactionRows
	sent := time.Now()
	if err := s.ask(fmt.Sprintf("%d committed", n), "begin; with recursive c(i) as "+
		"(select 1 union all select i+1 from c where i < %d) insert or replace into t select "+
		"(i + %d) * %d %% %d, %d, randomblob(%d) from c; commit; select '%d committed';",
		transactionRows, n*transactionRows, stride, tableRows, n, rowBytes, n); err != nil {
		return err
	}
	m.answered(sent)
	return nil
}

// check has sqlite check the database, which must have all rows of the last transaction.
func (s *shell) check(n int) error {
	if err := s.ask("ok", "pragma quick_check;"); err != nil {
		return err
	}
	return s.ask(fmt.Sprint(transactionRows), "select count(*) from t where n = %d;", n)
}
