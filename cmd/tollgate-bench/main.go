// Command tollgate-bench measures, on the machine that it runs on, what a decision of
// tollgate costs beside a server that decides nothing. It is also that server, and the
// process that makes the load, so that the server's own binary contains neither.
//
// It exits with 0, and with 1 if something failed or a target was missed.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		_, _ = fmt.Fprintf(stderr, "tollgate-bench: %v\n", err)
		return 1
	}
	return 0
}
