package store

import (
	"errors"
	"os"
)

// The write-ahead log grows until SQLite first writes it back, at 1000 pages,
// and is overwritten from its beginning from then on. To sync what made a file
// grow costs half as much again as to sync what was overwritten, so a process
// that goes on writing makes the file as long as it will get, once.
const (
	roomAfter = 32                            // transactions: short-lived processes do not need it
	walRoom   = 32 + (1000+256)*(24+pageSize) // bytes: header and frames, the last batch included
)

// makeRoom lengthens the write-ahead log with zeros. The caller holds the
// database's write lock, so nobody writes there; frames end where a checksum does
// not fit. What fails here fails no transaction: the log is as good short.
func (s *SQLite) makeRoom() {
	f, err := os.OpenFile(s.path+"-wal", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() >= walRoom {
		return
	}
	zeros := make([]byte, 256<<10)
	for at := info.Size(); at < walRoom && err == nil; at += int64(len(zeros)) {
		_, err = f.WriteAt(zeros, at)
	}
	if err = errors.Join(err, f.Sync()); err != nil {
		_ = f.Truncate(info.Size()) // a full disk gets its room back
	}
}
