package load

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every percentile is within a bucket's width above the exact one.
func TestQuantiles(t *testing.T) {
	source := rand.New(rand.NewPCG(1, 2))
	var values []time.Duration
	var first, second Histogram
	for i := range 20_000 {
		d := time.Duration(math.Exp(source.Float64() * 23)) // 1 ns to 10 s
		values = append(values, d)
		[]*Histogram{&first, &second}[i%2].Add(d)
	}
	first.Merge(&second)
	slices.Sort(values)
	for _, q := range []float64{.001, .5, .9, .99, .999, 1} {
		want := values[int(q*float64(len(values))+.5)-1]
		if got := first.Quantile(q); got < want || float64(got) > float64(want)*(1+1.0/subBuckets)+1 {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	if first.total != 20_000 {
		t.Errorf("count %d", first.total)
	}
	if got := new(Histogram).Quantile(.5); got != 0 {
		t.Errorf("an empty histogram has the median %v", got)
	}
}

func TestBucketsMeet(t *testing.T) {
	for i := range len(Histogram{}.counts) - 1 {
		end := uint64(upper(i))
		if bucket(end) != i || bucket(end+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, but that is in %d, and the next in %d", i, end, bucket(end), bucket(end+1))
		}
		if int64(end) > math.MaxInt64/2 {
			break
		}
	}
	var h Histogram
	h.Add(-time.Second)
	h.Add(math.MaxInt64)
	if h.Quantile(.5) != 0 || h.Quantile(1) != math.MaxInt64 {
		t.Errorf("the ends are %v and %v", h.Quantile(.5), h.Quantile(1))
	}
}

// The choice of keys is the same in every run, differs between callers, and has the
// shares that Zipf's law gives.
func TestZipf(t *testing.T) {
	const keys, draws = 10_000, 200_000
	job := &Job{Zipf: 1.1, Seed: 7}
	sequence := func(caller int) []int {
		c, list := newChoice(job, caller, keys), make([]int, draws)
		for i := range list {
			list[i] = c.next()
		}
		return list
	}
	one := sequence(0)
	if !slices.Equal(one, sequence(0)) {
		t.Error("the same seed gives another sequence")
	}
	if slices.Equal(one, sequence(1)) {
		t.Error("two callers choose the same keys in the same order")
	}
	counts, sum := make([]float64, keys), 0.0
	for _, k := range one {
		counts[k]++
	}
	for k := range keys {
		sum += math.Pow(float64(k+1), -1.1)
	}
	for _, k := range []int{0, 1, 9, 99} {
		want := math.Pow(float64(k+1), -1.1) / sum * draws
		if math.Abs(counts[k]-want) > 5*math.Sqrt(want) {
			t.Errorf("key %d was chosen %v times, want %.0f", k, counts[k], want)
		}
	}
	equally, seen := newChoice(&Job{}, 0, 4), map[int]int{}
	for range 4_000 {
		seen[equally.next()]++
	}
	for k := range 4 {
		if seen[k] < 800 {
			t.Errorf("without Zipf: %v", seen)
		}
	}
}

// An answer is read as Envoy reads it: the status code alone decides.
func TestAnswers(t *testing.T) {
	denied := []byte{0x0a, 2, 0x08, 7, 0x12, 5, 0x0a, 3, 0x08, 0x91, 0x03} // status 7, HTTP 401
	for _, c := range []struct {
		name    string
		wire    []byte
		allowed bool
		status  int
	}{
		{"empty", nil, true, 0},
		{"denied", denied, false, 401},
		{"the last status counts", append(slices.Clone(denied), 0x0a, 2, 0x08, 0), true, 401},
		{"other fields are passed over", append([]byte{0x22, 1, 0}, denied...), false, 401},
	} {
		var a answer
		if err := a.parse(c.wire); err != nil || a.allowed != c.allowed || a.status != c.status {
			t.Errorf("%s: %+v, %v", c.name, a, err)
		}
	}
	var a answer
	for i := 1; i < len(denied); i++ {
		if i != 4 && a.parse(denied[:i]) == nil { // after four bytes the status is whole
			t.Errorf("%d bytes of a message are accepted", i)
		}
	}
}

// files writes a request and secrets for it.
func files(t *testing.T, request, secrets string) Job {
	t.Helper()
	dir := t.TempDir()
	j := Job{Protocol: HTTP, Template: filepath.Join(dir, "request"), Placeholder: "SECRET", Secrets: filepath.Join(dir, "secrets"),
		Callers: 4, Connections: 4, Duration: 50 * time.Millisecond}
	for path, text := range map[string]string{j.Template: request, j.Secrets: secrets} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

// application answers each request on a connection with its status, as long as
// the connection lives.
func application(t *testing.T, answer func(request string) string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 4096)
				for {
					n, err := conn.Read(buffer)
					if err != nil {
						return
					}
					if _, err := io.WriteString(conn, answer(string(buffer[:n]))); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

func serve(t *testing.T, jobs ...Job) ([]Result, error) {
	t.Helper()
	var in, out bytes.Buffer
	for _, j := range jobs {
		if err := json.NewEncoder(&in).Encode(j); err != nil {
			t.Fatal(err)
		}
	}
	err := Serve(t.Context(), &in, &out)
	var results []Result
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var r Result
		if err := decoder.Decode(&r); err != nil {
			t.Fatal(err)
		}
		results = append(results, r)
	}
	return results, err
}

func TestHTTPLoad(t *testing.T) {
	j := files(t, "GET / HTTP/1.1\r\nHost: a\r\nKey: SECRET\r\n\r\n", "good00\nbad000\n")
	j.Address = application(t, func(request string) string {
		if strings.Contains(request, "Key: good00\r\n") {
			return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		}
		return "HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\nConnection: close\r\n\r\n"
	})
	once, rated := j, j
	once.Once, rated.Rate = true, 200
	results, err := serve(t, once, j, rated)
	if err != nil || len(results) != 3 {
		t.Fatalf("%+v, %v", results, err)
	}
	if r := results[0]; r.Calls != 2 || r.Allowed != 1 || r.Denied != 1 || r.Statuses[429] != 1 {
		t.Errorf("once: %+v", r)
	}
	if r := results[1]; r.Calls < 10 || r.Allowed+r.Denied != r.Calls || r.Allowed == 0 || r.Denied == 0 || r.P50 <= 0 || r.P999 < r.P99 || r.KeySeconds != 2 {
		t.Errorf("as fast as it goes: %+v", r)
	}
	if r := results[2]; r.Calls < 2 || r.Calls > 11 {
		t.Errorf("200 a second for 50 ms: %+v", r)
	}
}

// What is late because the server is slow counts from when it should have been sent.
func TestOpenLoopCountsWaiting(t *testing.T) {
	j := files(t, "SECRET", "secret\n")
	release := make(chan struct{})
	time.AfterFunc(120*time.Millisecond, func() { close(release) })
	j.Address = application(t, func(string) string {
		<-release
		return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	})
	j.Rate, j.Callers, j.Connections, j.Duration = 1000, 1, 1, 20*time.Millisecond
	results, err := serve(t, j)
	if err != nil || len(results) != 1 || results[0].P50 < 100*time.Millisecond {
		t.Errorf("%+v, %v; want a median of at least 100 ms", results, err)
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	for name, change := range map[string]func(*Job){
		"unknown protocol": func(j *Job) { j.Protocol = "smtp" },
		"no callers":       func(j *Job) { j.Callers = 0 },
		"zipf 1":           func(j *Job) { j.Zipf = 1 },
		"no duration":      func(j *Job) { j.Duration = 0 },
		"a negative rate":  func(j *Job) { j.Rate = -1 },
		"want 3":           func(j *Job) { j.Keys = 3 },
		"0 times":          func(j *Job) { j.Placeholder = "PASSWORD" },
		"want 5":           func(j *Job) { j.Placeholder = "ECRET" },
		"no such file":     func(j *Job) { j.Secrets = "missing" },
	} {
		j := files(t, "SECRET", "secret\nsecond\n")
		change(&j)
		if _, err := serve(t, j); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v; want %q", err, name)
		}
	}
	j := files(t, "SECRET", "secret\n")
	j.Address = application(t, func(string) string { return "nonsense\r\n" })
	j.Once = true
	if results, err := serve(t, j); err != nil || results[0].Failed != 1 || !strings.Contains(results[0].Failure, "no status line") {
		t.Errorf("%+v, %v", results, err)
	}
}
