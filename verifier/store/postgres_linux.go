package store

import "syscall"

// giveUpUnanswered ends a connection whose server has not acknowledged what was
// sent for 10 s: a machine that vanished sends no reset, and keep-alive probes
// wait while data is on its way (TCP_USER_TIMEOUT, RFC 5482).
func giveUpUnanswered(network, _ string, c syscall.RawConn) (err error) {
	if network == "unix" {
		return nil
	}
	const tcpUserTimeout = 18 // include/uapi/linux/tcp.h; not in package syscall
	if cerr := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, 10_000)
	}); cerr != nil {
		return cerr
	}
	return err
}
