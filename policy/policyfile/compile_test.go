package policyfile

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"tollgate/policy"
)

// small is the text of the shortest good policy file.
func small(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "small.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// changed is small with each old text, which must be there, replaced by a new one.
func changed(t testing.TB, oldNew ...string) string {
	t.Helper()
	text := small(t)
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(text, oldNew[i]) {
			t.Fatalf("small.yaml does not hold %q", oldNew[i])
		}
		text = strings.Replace(text, oldNew[i], oldNew[i+1], 1)
	}
	return text
}

func compiled(t testing.TB, texts ...string) *policy.Set {
	t.Helper()
	files := make([]File, len(texts))
	for i, text := range texts {
		files[i] = File{Name: fmt.Sprintf("file%d.yaml", i), Data: []byte(text)}
	}
	set, err := Compile(files...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// refused requires a fault that holds want, and returns all of them.
func refused(t *testing.T, want string, texts ...string) string {
	t.Helper()
	files := make([]File, len(texts))
	for i, text := range texts {
		files[i] = File{Name: fmt.Sprintf("file%d.yaml", i), Data: []byte(text)}
	}
	set, err := Compile(files...)
	if err == nil {
		t.Fatalf("accepted, want %q", want)
	}
	if set != nil {
		t.Error("an error and a set")
	}
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("got  %v\nwant %s", err, want)
	}
	return err.Error()
}

// Each file of testdata/bad has one fault, that of its name, and says in its first line where and
// how it is reported.
func TestBadFilesAreRefused(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("..", "..", "testdata", "bad", "*.yaml"))
	if err != nil || len(names) < 100 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	wanted := regexp.MustCompile(`^# want: ([0-9]+:[0-9]+): (.+)\n`)
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			want := wanted.FindStringSubmatch(string(data))
			if want == nil {
				t.Fatal("no line # want: LINE:COL: TEXT")
			}
			set, err := Compile(File{Name: name, Data: data})
			if err == nil || set != nil {
				t.Fatalf("accepted, want %s", want[0])
			}
			for _, line := range strings.Split(err.Error(), "\n") {
				if strings.HasPrefix(line, name+":"+want[1]+": ") && strings.Contains(line, want[2]) {
					return
				}
			}
			t.Errorf("got  %v\nwant %s:%s: %s", err, name, want[1], want[2])
		})
	}
}

// What the bad files change is their fault: without it they load.
func TestSmallLoads(t *testing.T) {
	set, err := Load(filepath.Join("..", "..", "testdata", "small.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	api := set.APIs()[0]
	if api.Name() != "jobs" || api.StaleFor() != 5*time.Minute {
		t.Errorf("name %q, stale for %v", api.Name(), api.StaleFor())
	}
	for _, text := range []string{
		"\ufeff" + small(t),
		strings.ReplaceAll(small(t), "\n", "\r\n"),
		"# a comment\n---\n" + small(t),
		small(t) + "---\n",
		changed(t, "match: \"GET /v1/jobs/{id}\"", "match: \"GET /caf\u00e9/{id}\""),
		changed(t, "api: jobs", "api: jobs\nstale_for: 0s\nundecided: rpc"),
		changed(t, "- name: free", "- name: free\n  month_anchor: 31"),
		changed(t, "- name: free", "- name: free\n  month_anchor: key"),
	} {
		if _, err := Compile(File{Name: "f", Data: []byte(text)}); err != nil {
			t.Errorf("%v\n%.80q", err, text)
		}
	}
}

func TestFaultsBetweenTwoFiles(t *testing.T) {
	other := changed(t, "api: jobs", "api: other", "[jobs.example.com]", "[other.example.com]")
	t.Run("same name", func(t *testing.T) {
		refused(t, `file1.yaml:1:6: duplicate api "jobs", which file0.yaml defines`,
			small(t), changed(t, "[jobs.example.com]", "[other.example.com]"))
	})
	t.Run("same host", func(t *testing.T) {
		refused(t, `file1.yaml:2:28: host "jobs.example.com" belongs to api "jobs" already`,
			small(t), changed(t, "api: jobs", "api: other", "[jobs.example.com]", "[other.example.com, jobs.example.com]"))
	})
	t.Run("host of an environment", func(t *testing.T) {
		refused(t, `file1.yaml:4:51: host "jobs.example.com" belongs to api "jobs" already`,
			small(t), changed(t, "api: jobs", "api: other", "[jobs.example.com]", "[other.example.com]",
				"key_format: {prefixes: [jb_]}", "environments: [{name: live, prefix: jl_, hosts: [ jobs.example.com]}]"))
	})
	t.Run("none", func(t *testing.T) {
		if got := len(compiled(t, small(t), other).APIs()); got != 2 {
			t.Errorf("%d APIs", got)
		}
	})
	t.Run("all are told", func(t *testing.T) {
		got := refused(t, "file0.yaml", changed(t, "cost: 5", "cost: -5"), changed(t, "per: minute", "per: week"), other)
		if !strings.Contains(got, "file1.yaml") {
			t.Errorf("only %s", got)
		}
	})
	if _, err := Compile(); err == nil {
		t.Error("no file at all is accepted")
	}
}

func TestReadFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadFiles(filepath.Join(dir, "none")); err == nil {
		t.Error("a missing file is accepted")
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "no *.yaml") {
		t.Errorf("empty directory: %v", err)
	}
	write("b.yaml", changed(t, "api: jobs", "api: other", "jobs.example.com", "other.example.com"))
	write("a.yml", small(t))
	write(".hidden.yaml", "no policy")
	write("notes.txt", "no policy")
	if err := os.Mkdir(filepath.Join(dir, "sub.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "gone.yaml")); err != nil {
		t.Fatal(err)
	}
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if apis := set.APIs(); len(apis) != 2 || apis[0].Name() != "jobs" || apis[1].Name() != "other" {
		t.Errorf("got %d APIs", len(apis))
	}
}

// Each of these is a document that a careless reader takes long for, or runs out of memory or
// stack.
func TestHostileYAML(t *testing.T) {
	bomb := "a: &a [x, x]\n"
	for i := range 30 {
		bomb += fmt.Sprintf("%c: &%c [*%c, *%c]\n", 'b'+i, 'b'+i, 'a'+i, 'a'+i)
	}
	for name, text := range map[string]string{
		"bomb":            bomb,
		"brackets":        strings.Repeat("[", maxFile),
		"braces":          strings.Repeat("{a: ", maxFile/4),
		"dashes":          strings.Repeat("- ", maxFile/2),
		"question marks":  strings.Repeat("? ", maxFile/2),
		"anchors":         strings.Repeat("&a ", maxFile/3),
		"too long":        small(t) + strings.Repeat("#", maxFile),
		"only NUL":        strings.Repeat("\x00", 1000),
		"faults":          changed(t, "[jobs.example.com]", "["+strings.Repeat("A, ", 5000)+"]"),
		"no such thing":   "~",
		"two empty texts": "---\n---\n",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			got := refused(t, "file0.yaml:", text)
			if lines := strings.Count(got, "\n") + 1; lines > maxFaults {
				t.Errorf("%d faults", lines)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// A text is what it is in the file: none is made of a number that would change.
func TestScalarsKeepTheirText(t *testing.T) {
	for _, text := range []string{"401", "4.50", ".inf", ".nan", "true", "0x1f"} {
		refused(t, "want a text, in quotes", changed(t, "code: unauthorized", "code: "+text))
		if _, err := Compile(File{Name: "f", Data: []byte(changed(t, "code: unauthorized", `code: "`+text+`"`))}); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{`"60"`, "60.0", "1e3", "0x3c", "060", "6_0", "true", "99999999999999999999", "[60]", "{a: 1}", "-0", "+60"} {
		refused(t, "file0.yaml:13:30: ", changed(t, "requests: 60", "requests: "+text))
	}
	for _, text := range []string{"yes", `"true"`, "1", "[true]"} {
		refused(t, "file0.yaml:9:48: ", changed(t, "public: true", "public: "+text))
	}
}

func FuzzCompile(f *testing.F) {
	for _, pattern := range []string{"../../testdata/small.yaml", "../../testdata/*/policy.yaml", "../../testdata/bad/*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			f.Fatal(pattern, err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := Compile(File{Name: "f", Data: data})
		if (set == nil) == (err == nil) {
			t.Fatalf("set %v, error %v", set, err)
		}
		if err == nil {
			return
		}
		if !regexp.MustCompile(`^f:[1-9][0-9]*:[1-9][0-9]*: .`).MatchString(err.Error()) {
			t.Errorf("error without a place: %v", err)
		}
	})
}
