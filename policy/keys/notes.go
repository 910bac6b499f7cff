package keys

import (
	"encoding/binary"
	"hash/maphash"
	"time"
)

// pieceBytes is how much room is made at once for what is noted: some 2,000 notes.
const pieceBytes = 64 << 10

// notes is a queue of the ids of keys and the Unix seconds of their uses. It is made of pieces, so that it grows
// without a copy, and has no pointer for each note, so that the garbage collector has nearly nothing to do with it.
// Reading a copy leaves the queue as it is; only one copy may be added to.
type notes struct {
	first, last *piece
	read        int // bytes of first that are no longer in the queue
	n           int // how many notes
}

// piece holds notes, each of them as the length of the id, the id and the second.
type piece struct {
	bytes []byte
	next  *piece
}

func (q *notes) add(id string, second int64) {
	const mostVarints = binary.MaxVarintLen16 + binary.MaxVarintLen64
	if q.last == nil || cap(q.last.bytes)-len(q.last.bytes) < len(id)+mostVarints {
		p := &piece{bytes: make([]byte, 0, pieceBytes)}
		if q.last == nil {
			q.first = p
		} else {
			q.last.next = p
		}
		q.last = p
	}
	b := binary.AppendUvarint(q.last.bytes, uint64(len(id)))
	b = append(b, id...)
	q.last.bytes = binary.AppendVarint(b, second)
	q.n++
}

// next returns the oldest note, and the queue without it. There must be one.
func (q notes) next() (id []byte, second int64, rest notes) {
	for q.read == len(q.first.bytes) {
		q.first, q.read = q.first.next, 0
	}
	b := q.first.bytes[q.read:]
	length, size := binary.Uvarint(b)
	end := size + int(length)
	second, secondSize := binary.Varint(b[end:])
	q.read += end + secondSize
	q.n--
	return b[size:end], second, q
}

// uses appends the oldest notes to batch, at most touchBatch, and returns the queue without them.
func (q notes) uses(batch []Use) ([]Use, notes) {
	for q.n > 0 && len(batch) < touchBatch {
		var id []byte
		var second int64
		id, second, q = q.next()
		batch = append(batch, Use{ID: string(id), At: time.Unix(second, 0)})
	}
	return batch, q
}

// dropTo drops the oldest notes until there are no more than most.
func (q *notes) dropTo(most int) {
	for q.n > most {
		_, _, *q = q.next()
	}
}

// join puts newer, which must not be used any more, behind q.
func (q *notes) join(newer notes) {
	switch {
	case newer.n == 0:
	case q.n == 0:
		*q = newer
	default:
		newer.first.bytes = newer.first.bytes[newer.read:]
		q.last.next, q.last = newer.first, newer.last
		q.n += newer.n
	}
}

// newest returns a queue of the last note of each key, so that keys which are used every minute do not fill it while
// the store is away. It tells keys by a hash of 64 bits: of a million, two have the same one, and the older note of the
// two is lost, in less than one case of ten million.
func (q notes) newest() notes {
	seed, last := maphash.MakeSeed(), make(map[uint64]int, q.n)
	for at := q; at.n > 0; {
		var id []byte
		id, _, at = at.next()
		last[maphash.Bytes(seed, id)] = at.n
	}
	var out notes
	for at := q; at.n > 0; {
		var id []byte
		var second int64
		id, second, at = at.next()
		if last[maphash.Bytes(seed, id)] == at.n {
			out.add(string(id), second)
		}
	}
	return out
}
