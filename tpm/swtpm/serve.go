package swtpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm/device"
)

// Server gives other processes an [Instance] at the path of a unix socket, to be
// opened as "swtpm:PATH". Like /dev/tpmrm0, and unlike swtpm itself, it serves
// any number of clients and flushes what a client leaves loaded.
type Server struct {
	tpm      *Instance
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex
	clients map[net.Conn]bool // nil once closed
}

// Serve listens at path, at most 107 bytes long, until Close; a socket that is
// there already is replaced. Only this user can open it (mode 0600).
func (i *Instance) Serve(path string) (*Server, error) {
	if len(path) > 107 { // sun_path, unix(7)
		return nil, fmt.Errorf("serving software TPM: socket path %s has %d bytes, 107 are allowed", path, len(path))
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() == fs.ModeSocket {
		os.Remove(path)
	}
	listener, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("serving software TPM: %w", err)
	}
	s := &Server{tpm: i, listener: listener, clients: make(map[net.Conn]bool)}
	s.wg.Go(s.accept)
	return s, nil
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.clients == nil {
			conn.Close()
		} else {
			s.clients[conn] = true
			s.wg.Go(func() { s.serve(conn) })
		}
		s.mu.Unlock()
	}
}

// serve passes on conn's commands until it closes, keeping account of what they
// load.
func (s *Server) serve(conn net.Conn) {
	loaded := make(map[tpm2.TPMHandle]bool)
	defer func() {
		conn.Close()
		for h := range loaded {
			// It may be gone since, by a power cycle.
			_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(s.tpm)
		}
		s.mu.Lock()
		delete(s.clients, conn)
		s.mu.Unlock()
	}()
	for {
		cmd, err := device.ReadMessage(conn)
		if err != nil {
			return
		}
		response, err := s.tpm.Send(cmd)
		if err != nil {
			return
		}
		account(loaded, cmd, response)
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

// account notes the object or session that a command loaded or flushed.
func account(loaded map[tpm2.TPMHandle]bool, cmd, response []byte) {
	if binary.BigEndian.Uint32(response[6:]) != 0 {
		return
	}
	switch tpm2.TPMCC(binary.BigEndian.Uint32(cmd[6:])) {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCStartAuthSession, tpm2.TPMCCContextLoad:
		if len(response) >= 14 {
			loaded[tpm2.TPMHandle(binary.BigEndian.Uint32(response[10:]))] = true
		}
	case tpm2.TPMCCFlushContext:
		if len(cmd) >= 14 {
			delete(loaded, tpm2.TPMHandle(binary.BigEndian.Uint32(cmd[10:])))
		}
	}
}

// Close stops listening, ends the clients' connections and removes the socket.
func (s *Server) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	for conn := range s.clients {
		conn.Close()
	}
	s.clients = nil
	s.mu.Unlock()
	s.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
