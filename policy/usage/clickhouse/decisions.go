package clickhouse

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
)

// Decisions adds lines of the decision log to the table decisions, as they are. It is a
// decisionlines.Sink, to be offered the same lines again until it has taken them.
type Decisions struct {
	client *Client
	epoch  string // of this process
	batch  int
}

// NewDecisions returns what adds lines to a ClickHouse.
func NewDecisions(c *Client) *Decisions { return &Decisions{client: c, epoch: rand.Text()} }

// insertDecisions leaves fields that are no columns out: later servers may write more of them.
const insertDecisions = "INSERT INTO decisions FORMAT JSONEachRow"

// Take adds lines, all or none, and returns how many they are. After an error it must be given the
// same again: their name is that of the try before, so that they count once even if its reply was
// lost.
func (d *Decisions) Take(ctx context.Context, lines []byte) (int, error) {
	options := insertOptions(fmt.Sprintf("%s/%d", d.epoch, d.batch))
	options["input_format_skip_unknown_fields"], options["date_time_input_format"] = "1", "best_effort"
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	if _, err := d.client.do(ctx, insertDecisions, options, nil, lines); err != nil {
		return 0, err
	}
	d.batch++
	return bytes.Count(lines, []byte{'\n'}), nil
}
