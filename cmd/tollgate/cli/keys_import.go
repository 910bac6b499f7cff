package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/transfer"
)

// source is a file with keys and what is said about it on the command line.
type source struct {
	format   string
	labels   map[string]string
	groups   map[string]string
	drop     []string
	defaults keyfile.Defaults

	kind    transfer.Format
	summary transfer.Summary
	options transfer.Options
	file    *os.File
}

func (s *source) flags(f *pflag.FlagSet) {
	f.StringVar(&s.format, "format", "", "yaml, jsonl, csv, authorino, envoy-gateway or kong; default: by the end of the file's name")
	f.StringVar(&s.defaults.API, "api", "", "API of the keys, where the file does not say")
	f.StringVar(&s.defaults.Team, "team", "", "team of the keys, where the file does not say")
	f.StringVar(&s.defaults.Environment, "env", "", "environment of the keys, where the file does not say")
	f.StringVar(&s.defaults.Plan, "plan", "", "plan of the keys, where the file does not say")
	f.StringSliceVar(&s.defaults.Scopes, "scopes", nil, "scopes of the keys, where the file does not say")
	f.StringToStringVar(&s.labels, "label", nil, "FIELD=LABEL: which label or annotation of Authorino's Secrets holds team, plan, environment, scopes, name or note")
	f.StringToStringVar(&s.groups, "group", nil, "GROUP=SCOPE: which scopes, joined with |, an ACL group of Kong's stands for; a key in another group is refused")
	f.StringSliceVar(&s.drop, "drop-plugin", nil, "plugins of Kong's that keys lose, because the policy does what they did; joined with commas. Without it a key is refused that one narrows in a way that no key of ours can be")
}

// open reads the file once, to know its size and hash, and goes back to its
// start.
func (s *source) open(path string) (err error) {
	if s.kind, err = s.guess(path); err != nil {
		return err
	}
	if s.file, err = os.Open(path); err != nil {
		return err
	}
	info, err := s.file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file that can be read twice", path)
	}
	if err == nil {
		s.options = transfer.Options{AsOf: info.ModTime(), Labels: s.labels, Groups: s.groups, Drop: s.drop, API: s.defaults.API}
		s.summary, err = transfer.Survey(s.kind, s.file)
	}
	if err == nil {
		_, err = s.file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return errors.Join(err, s.file.Close())
	}
	return nil
}

// holdsKeys reports whether the file has a record, be it a broken one, and goes
// back to its start.
func (s *source) holdsKeys() (some bool, err error) {
	for _, err := range transfer.Read(s.kind, s.file, s.options) {
		var ignored *keyfile.IgnoredError
		if !errors.As(err, &ignored) {
			some = true
			break
		}
	}
	_, err = s.file.Seek(0, io.SeekStart)
	return some, err
}

func (s *source) guess(path string) (transfer.Format, error) {
	if s.format != "" {
		f, err := transfer.ParseFormat(s.format)
		if err != nil {
			return "", fmt.Errorf("--format: %q is not one of %v", s.format, transfer.Formats())
		}
		return f, nil
	}
	if f, ok := transfer.FormatOf(path); ok {
		return f, nil
	}
	return "", fmt.Errorf("%s: its name does not say what it holds: give --format", path)
}

func newImport(a *access) *cobra.Command {
	s, refused, progress := &source{}, "", false
	cmd := &cobra.Command{
		Use:   "import FILE [flags]",
		Short: "Take over keys from a file; keys that are there stay as they are",
		Long: `Take over keys from a file: the keys file (yaml), JSON Lines, CSV, Kubernetes Secrets
of Authorino or Envoy Gateway, or Kong's declarative configuration. Plain secrets are
hashed at once. What cannot be taken is refused by itself, with a reason; the same
import again goes on where it was interrupted. What narrows a key elsewhere in the
file (Kong's plugins and ACL groups, AuthConfigs, SecurityPolicies) becomes the key's
own restriction or refuses the key. Exits with 1 if a record was refused, or if the
file holds no key.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.open(args[0]); err != nil {
				return err
			}
			defer s.file.Close()
			return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
				return a.importKeys(ctx, cmd, s, refused, progress)
			})
		},
	}
	cmd.Flags().SortFlags = false
	s.flags(cmd.Flags())
	cmd.Flags().StringVar(&refused, "refused", "", "file that gets a line of JSON for each refused record")
	cmd.Flags().BoolVar(&progress, "progress", false, "show progress, also where the output is no terminal")
	return cmd
}

func (a *access) importKeys(ctx context.Context, cmd *cobra.Command, s *source, refused string, progress bool) (err error) {
	o := admin.ImportOptions{Defaults: s.defaults, Source: s.file.Name(), SHA256: s.summary.SHA256, Total: s.summary.Records}
	if refused != "" {
		f, err := os.OpenFile(refused, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("--refused: %w", err)
		}
		defer func() { err = errors.Join(err, exit.Failed(f.Close())) }()
		o.Refused = f
	}
	if bar := newBar(cmd.ErrOrStderr(), progress); bar != nil {
		o.Progress = bar.show
		defer bar.end()
	}
	report, err := a.manager.Import(ctx, transfer.Read(s.kind, s.file, s.options), o)
	if err == nil && report.Read == 0 {
		err = fmt.Errorf("%s holds no key as the format %s has them", s.file.Name(), s.kind)
	}
	return errors.Join(explained(err), exit.Failed(a.printImport(cmd, report, refused)), refusals(report.Refused))
}

func refusals(n int) error {
	if n == 0 {
		return nil
	}
	return exit.Failed(errors.New(output.Count(n, "record") + " refused"))
}

func (a *access) printImport(cmd *cobra.Command, r admin.ImportReport, refused string) error {
	if a.output != output.Table {
		return a.output.Print(cmd.OutOrStdout(), r)
	}
	for _, f := range r.First {
		cmd.PrintErrf("line %d: %s\n", f.Line, strings.TrimSpace(f.ID+" "+f.Reason))
	}
	for _, f := range r.FirstIgnored {
		cmd.PrintErrf("line %d: ignored: %s\n", f.Line, f.Reason)
	}
	if more := r.Refused - len(r.First); more > 0 {
		where := "; give --refused FILE to have them all"
		if refused != "" {
			where = ", all in " + refused
		}
		cmd.PrintErrf("and %d more%s\n", more, where)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), r)
	return err
}

// bar shows how far an import is.
type bar struct {
	w        io.Writer
	terminal bool
	next     time.Time // of the next line, where the output is no terminal
}

const (
	barWidth = 30
	barPause = 2 * time.Second // between lines
)

func newBar(w io.Writer, always bool) *bar {
	file, ok := w.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	if !terminal && !always {
		return nil
	}
	return &bar{w: w, terminal: terminal}
}

func (b *bar) show(p admin.Progress) {
	line := fmt.Sprintf("%d records, %.0f/s", p.Done, p.Rate)
	if p.Total > 0 {
		full := min(barWidth, barWidth*p.Done/p.Total)
		line = fmt.Sprintf("[%s%s] %d %% of %d, %.0f/s, %s left", strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
			100*p.Done/p.Total, p.Total, p.Rate, p.ETA.Round(time.Second))
	}
	if b.terminal {
		_, _ = fmt.Fprintf(b.w, "\r\x1b[K%s", line)
		return
	}
	if now := time.Now(); !now.Before(b.next) || p.Done >= p.Total {
		b.next = now.Add(barPause)
		_, _ = fmt.Fprintln(b.w, line)
	}
}

func (b *bar) end() {
	if b.terminal {
		_, _ = fmt.Fprintln(b.w)
	}
}
