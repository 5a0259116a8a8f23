package enclave

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A kernelDeadline is key 5, level E4: programs in the kernel that compare the
// boot clock with a deadline whenever a process in or below the group leaves a processor,
// a thousand times a second while it keeps one, and for every packet it sends.
// After the deadline they kill the process and drop the packet, though no
// process of ours ever ran again. A process that sleeps is killed when it wakes.
//
// The programs that kill live as long as the keeper, and without it the work
// dies anyway. The one that drops belongs to the cgroup, and stays for what is in
// send buffers after all processes have gone, keeper and init too: each socket keeps
// its cgroup, even a removed one. So nothing is pinned in a file system, where it would
// have to be swept. They are written out here in
// instructions: a compiler or a library of bytecode is more than two dozen of
// them are worth in the process that holds the kill switch.
type kernelDeadline struct {
	at  *word // the deadline, shared with the programs; 1 is long ago
	fds []int
}

// beforeToken is how long a group may wait for its first token.
const beforeToken = 60e9

func newKernelDeadline(g *group) (_ *kernelDeadline, err error) {
	d := &kernelDeadline{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	shared, err := d.word()
	if err != nil {
		return nil, err
	}
	d.at.v.Store(int64(Now()) + beforeToken)
	held, err := d.held(g)
	if err != nil {
		return nil, err
	}
	drop, err := d.load("egress", bpfCgroupSKB, dropAfter(shared))
	if err != nil {
		return nil, err
	}
	if _, err := bpf(bpfProgAttach, &bpfAttach{target: uint32(g.fd.Fd()), program: uint32(drop), kind: bpfEgress, flags: bpfMulti}); err != nil {
		return nil, fmt.Errorf("attaching the egress program: %w", err)
	}
	leaving, err := d.load("sched_switch", bpfRawTracepoint, killAfter(shared, held))
	if err != nil {
		return nil, err
	}
	name := []byte("sched_switch\x00")
	fd, err := bpf(bpfRawTracepointOpen, &bpfTracepoint{name: pointer(&name[0]), program: uint32(leaving)})
	runtime.KeepAlive(name)
	if err != nil {
		return nil, fmt.Errorf("attaching to sched_switch: %w", err)
	}
	d.fds = append(d.fds, fd)
	ticking, err := d.load("cpu-clock", bpfPerfEvent, killAfter(shared, held))
	if err != nil {
		return nil, err
	}
	return d, d.tick(ticking)
}

// word makes the array of one word that the programs read.
func (d *kernelDeadline) word() (int, error) {
	fd, err := bpf(bpfMapCreate, &bpfMap{kind: bpfArray, key: 4, value: 8, entries: 1, flags: bpfMmapable})
	if err != nil {
		return 0, fmt.Errorf("making a deadline for the kernel: %w", err)
	}
	d.fds = append(d.fds, fd)
	b, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("mapping the kernel's deadline: %w", err)
	}
	d.at = (*word)(unsafe.Pointer(&b[0]))
	return fd, nil
}

// held makes the array that holds the group itself, for the programs to ask whether
// a process is in it or below.
func (d *kernelDeadline) held(g *group) (int, error) {
	fd, err := bpf(bpfMapCreate, &bpfMap{kind: bpfCgroupArray, key: 4, value: 4, entries: 1})
	if err != nil {
		return 0, fmt.Errorf("making an array of one cgroup: %w", err)
	}
	d.fds = append(d.fds, fd)
	key, value := new(uint32), new(uint32)
	*value = uint32(g.fd.Fd())
	_, err = bpf(bpfMapUpdate, &bpfElement{shared: uint32(fd), key: pointer(key), value: pointer(value)})
	runtime.KeepAlive(key)
	runtime.KeepAlive(value)
	if err != nil {
		return 0, fmt.Errorf("naming the cgroup to the kernel: %w", err)
	}
	return fd, nil
}

// tick runs a program a thousand times a second on each busy processor.
func (d *kernelDeadline) tick(program int) error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Sample: 1000, Bits: unix.PerfBitFreq}
	attr.Size = uint32(unsafe.Sizeof(attr))
	online := 0
	for cpu := range 4096 { // processors may be numbered with gaps
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
			if online >= runtime.NumCPU() && cpu > 2*runtime.NumCPU()+64 {
				break
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("opening a clock event on processor %d: %w", cpu, err)
		}
		online++
		d.fds = append(d.fds, fd)
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, program); err != nil {
			return fmt.Errorf("attaching to the clock of processor %d: %w", cpu, err)
		}
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
			return fmt.Errorf("starting the clock of processor %d: %w", cpu, err)
		}
	}
	if online == 0 {
		return errors.New("opening a clock event: no processor has one")
	}
	return nil
}

// set moves the deadline. An instant in the past kills and drops at once.
func (d *kernelDeadline) set(at Instant) { d.at.v.Store(int64(max(at, 1))) }

func (d *kernelDeadline) close() {
	for _, fd := range d.fds {
		_ = unix.Close(fd)
	}
	d.fds = nil
}

func (d *kernelDeadline) load(name string, kind uint32, program []bpfInsn) (int, error) {
	license := []byte("GPL\x00") // bpf_send_signal is for such programs only
	log := make([]byte, 4096)
	attr := &bpfLoad{kind: kind, count: uint32(len(program)), program: pointer(&program[0]), license: pointer(&license[0]),
		logLevel: 1, logSize: uint32(len(log)), log: pointer(&log[0])}
	fd, err := bpf(bpfProgLoad, attr)
	for tries := 0; errors.Is(err, unix.EAGAIN) && tries < 100; tries++ { // the kernel's verifier gives up when a signal is pending, and Go sends itself some
		fd, err = bpf(bpfProgLoad, attr)
	}
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	if errors.Is(err, unix.ENOSPC) { // of the log only
		err = fmt.Errorf("%w (the kernel's verifier had more to say than fits)", err)
	}
	if err != nil {
		return 0, fmt.Errorf("loading the %s program: %w", name, err)
	}
	d.fds = append(d.fds, fd)
	return fd, nil
}

// killAfter kills the current process, if it is in or below the cgroup held, from the
// deadline on: the first member of the shared map.
func killAfter(shared, held int) []bpfInsn {
	const out = 17
	return []bpfInsn{
		{code: bpfLoad64, regs: bpfMapFD<<4 | 1, imm: int32(held)},
		{},
		{code: bpfMoveImm, regs: 2},
		{code: bpfCall, imm: 37}, // r0 = bpf_current_task_under_cgroup(r1, r2)
		{code: bpfJumpNEImm, off: out - 5, imm: 1}, // r0 != 1
		{code: bpfStoreImm, regs: 10, off: -4},     // *(u32 *)(r10 - 4) = 0
		{code: bpfLoad64, regs: bpfMapFD<<4 | 1, imm: int32(shared)},
		{},
		{code: bpfMove, regs: 10<<4 | 2}, // r2 = r10
		{code: bpfAddImm, regs: 2, imm: -4},
		{code: bpfCall, imm: 1}, // r0 = bpf_map_lookup_elem(r1, r2)
		{code: bpfJumpEQImm, off: out - 12},
		{code: bpfLoadMem, regs: 0<<4 | 6}, // r6 = *(u64 *)r0
		{code: bpfCall, imm: 125},          // r0 = bpf_ktime_get_boot_ns()
		{code: bpfJumpLT, regs: 6 << 4, off: out - 15},
		{code: bpfMoveImm, regs: 1, imm: int32(unix.SIGKILL)},
		{code: bpfCall, imm: 109}, // bpf_send_signal(r1)
		{code: bpfMoveImm},
		{code: bpfExit},
	}
}

// dropAfter lets a packet pass until the deadline.
func dropAfter(shared int) []bpfInsn {
	const drop = 12
	return []bpfInsn{
		{code: bpfStoreImm, regs: 10, off: -4},
		{code: bpfLoad64, regs: bpfMapFD<<4 | 1, imm: int32(shared)},
		{},
		{code: bpfMove, regs: 10<<4 | 2},
		{code: bpfAddImm, regs: 2, imm: -4},
		{code: bpfCall, imm: 1},
		{code: bpfJumpEQImm, off: drop - 7},
		{code: bpfLoadMem, regs: 0<<4 | 6},
		{code: bpfCall, imm: 125},
		{code: bpfJumpGE, regs: 6 << 4, off: drop - 10},
		{code: bpfMoveImm, imm: 1},
		{code: bpfExit},
		{code: bpfMoveImm},
		{code: bpfExit},
	}
}

// bpfInsn is struct bpf_insn of <linux/bpf.h>; regs is src<<4 | dst on the
// little-endian machines Writ runs on.
type bpfInsn struct {
	code uint8
	regs uint8
	off  int16
	imm  int32
}

// Opcodes (Documentation/bpf/standardization/instruction-set.rst).
const (
	bpfLoad64    = 0x18
	bpfLoadMem   = 0x79
	bpfStoreImm  = 0x62
	bpfMove      = 0xbf
	bpfMoveImm   = 0xb7
	bpfAddImm    = 0x07
	bpfJumpEQImm = 0x15
	bpfJumpNEImm = 0x55
	bpfJumpGE    = 0x3d
	bpfJumpLT    = 0xad
	bpfCall      = 0x85
	bpfExit      = 0x95
	bpfMapFD     = 1 // source register of a load that means a map
)

// Commands, kinds and flags of bpf(2).
const (
	bpfMapCreate         = 0
	bpfMapUpdate         = 2
	bpfProgLoad          = 5
	bpfProgAttach        = 8
	bpfRawTracepointOpen = 17

	bpfArray         = 2
	bpfMmapable      = 1 << 10
	bpfPerfEvent     = 7
	bpfCgroupArray   = 8
	bpfCgroupSKB     = 8
	bpfRawTracepoint = 17
	bpfEgress        = 1
	bpfMulti         = 2
)

// Members of union bpf_attr.
type (
	bpfMap  struct{ kind, key, value, entries, flags uint32 }
	bpfLoad struct {
		kind, count        uint32
		program, license   uint64
		logLevel, logSize  uint32
		log                uint64
		version, progFlags uint32
	}
	bpfTracepoint struct {
		name    uint64
		program uint32
		_       uint32
	}
	bpfAttach  struct{ target, program, kind, flags uint32 }
	bpfElement struct {
		shared, _         uint32
		key, value, flags uint64
	}
)

func pointer[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

func bpf[T any](command uintptr, attr *T) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	runtime.KeepAlive(attr)
	if errno != 0 {
		return 0, errno
	}
	if command != bpfProgAttach && command != bpfMapUpdate {
		unix.CloseOnExec(int(fd))
	}
	return int(fd), nil
}
