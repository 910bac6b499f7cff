package load

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	logMethod = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
	// logName and ourFilter are the names by which the entries are ours.
	logName   = "tollgate"
	ourFilter = "envoy.filters.http.ext_authz"
	// Entries are gathered as the shipped bootstrap says.
	logFlush = 50 * time.Millisecond
	logRoom  = 1 << 20
)

// accessLog tells a server on one stream of calls that have ended, as Envoy does.
type accessLog struct {
	common, rest []byte // of each entry
	conn         *grpc.ClientConn
	stream       grpc.ClientStream
	end          context.CancelFunc
	work         sync.WaitGroup

	mu      sync.Mutex
	entries []byte // that are not sent yet
	err     error
}

// openAccessLog opens the stream of a job.
func openAccessLog(j *Job) (*accessLog, error) {
	entry, err := os.ReadFile(j.LogEntry)
	if err != nil {
		return nil, err
	}
	l := &accessLog{}
	number, kind, n := protowire.ConsumeTag(entry)
	common, m := protowire.ConsumeBytes(entry[max(n, 0):])
	if n < 0 || m < 0 || number != 1 || kind != protowire.BytesType {
		return nil, fmt.Errorf("%s does not begin with what its entries have in common", j.LogEntry)
	}
	l.common, l.rest = common, entry[n+m:]
	l.conn, err = grpc.NewClient(j.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	l.end = end
	l.stream, err = l.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, logMethod)
	if err != nil {
		end()
		return nil, errors.Join(err, l.conn.Close())
	}
	l.work.Go(func() { l.flushOften(ctx) })
	return l, nil
}

// add tells of a call that has ended, by the metadata of its answer. It returns the error of an
// earlier one that could not be sent.
func (l *accessLog) add(metadata []byte) error {
	filter := protowire.AppendTag(make([]byte, 0, 64+len(metadata)), 1, protowire.BytesType)
	filter = protowire.AppendString(filter, ourFilter)
	filter = protowire.AppendTag(filter, 2, protowire.BytesType)
	filter = protowire.AppendBytes(filter, metadata)
	filters := protowire.SizeTag(1) + protowire.SizeBytes(len(filter))
	common := len(l.common) + protowire.SizeTag(17) + protowire.SizeBytes(filters)

	l.mu.Lock()
	defer l.mu.Unlock()
	b := protowire.AppendTag(l.entries, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(1)+protowire.SizeBytes(common)+len(l.rest)))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(common))
	b = append(b, l.common...)
	b = protowire.AppendTag(b, 17, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(filters))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, filter)
	l.entries = append(b, l.rest...)
	if len(l.entries) >= logRoom {
		l.flush()
	}
	return l.err
}

func (l *accessLog) flushOften(ctx context.Context) {
	tick := time.NewTicker(logFlush)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.mu.Lock()
			l.flush()
			l.mu.Unlock()
		}
	}
}

// flush sends what there is. The caller holds the lock.
func (l *accessLog) flush() {
	if len(l.entries) == 0 || l.err != nil {
		return
	}
	var head []byte
	head = protowire.AppendTag(head, 2, protowire.BytesType)
	head = protowire.AppendString(head, logName)
	identifier := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), head)
	identifier = protowire.AppendTag(identifier, 2, protowire.BytesType)
	identifier = protowire.AppendVarint(identifier, uint64(len(l.entries)))
	// What is sent is the stream's from now on.
	l.err = l.stream.SendMsg([3][]byte{identifier, l.entries, nil})
	l.entries = make([]byte, 0, len(l.entries)+len(l.entries)/8)
}

func (l *accessLog) close() {
	l.mu.Lock()
	l.flush()
	l.mu.Unlock()
	_ = l.stream.CloseSend() // as below
	l.end()
	l.work.Wait()
	_ = l.conn.Close() // nobody waits for it any more
}
