// Package bpf puts a deadline into the kernel: programs that kill what runs in a
// cgroup after it, and drop what it sends, though no process of ours ever runs again.
//
// Hazards. The kernel reads the boot clock of the machine, whatever time namespace a
// process is in. What sleeps is killed when it wakes. The programs that kill live as
// long as somebody holds their links, or a pin does; the one that drops belongs to the
// cgroup and to each socket made in it, and outlives both of them.
package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A Deadline is what keeps the programs working.
type Deadline struct {
	word    *ebpf.Map // one uint64: nanoseconds on the boot clock
	links   []link.Link
	fds     []int // of the links
	pinning string
}

// mmapable is BPF_F_MMAPABLE: whoever holds the map moves the deadline by a store.
const mmapable = 1 << 10

// Arm makes the programs and has them hold a cgroup, of which it gets the open
// directory, to a deadline on the machine's boot clock, in nanoseconds. Pins, if not
// "", is an empty directory of a bpffs, where map, programs and links then are named:
// they work until these names are removed, whoever ends. Linux 5.15.
func Arm(cgroup int, until uint64, pins string) (_ *Deadline, err error) {
	d := &Deadline{pinning: pins}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.word, err = ebpf.NewMap(&ebpf.MapSpec{Name: "deadline", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: mmapable}); err != nil {
		return nil, fmt.Errorf("making a deadline for the kernel: %w", err)
	}
	if err := errors.Join(d.word.Put(uint32(0), until), d.pin("deadline", d.word)); err != nil {
		return nil, err
	}
	held, err := ebpf.NewMap(&ebpf.MapSpec{Name: "held", Type: ebpf.CGroupArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("making an array of one cgroup: %w", err)
	}
	defer held.Close()
	if err := held.Put(uint32(0), uint32(cgroup)); err != nil {
		return nil, fmt.Errorf("naming the cgroup to the kernel: %w", err)
	}
	if err := d.drop(cgroup); err != nil {
		return nil, err
	}
	if err := d.leaving(held); err != nil {
		return nil, err
	}
	return d, d.ticking(held)
}

// drop is attached to the cgroup itself and not by a link, which would end with it.
func (d *Deadline) drop(cgroup int) error {
	egress, err := d.load("egress", ebpf.CGroupSKB, dropAfter(d.word))
	if err != nil {
		return err
	}
	defer egress.Close()
	const multi = 2 // BPF_F_ALLOW_MULTI: the engine, or systemd, may have programs there
	err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: cgroup, Program: egress, Attach: ebpf.AttachCGroupInetEgress, Flags: multi})
	if err != nil {
		return fmt.Errorf("attaching the egress program: %w", err)
	}
	return nil
}

// leaving kills what leaves a processor.
func (d *Deadline) leaving(held *ebpf.Map) error {
	program, err := d.load("leaving", ebpf.RawTracepoint, killAfter(d.word, held))
	if err != nil {
		return err
	}
	defer program.Close()
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_switch", Program: program})
	if err != nil {
		return fmt.Errorf("attaching to sched_switch: %w", err)
	}
	return d.hold("sched_switch", l)
}

// ticking kills, a thousand times a second, what keeps a processor.
func (d *Deadline) ticking(held *ebpf.Map) error {
	program, err := d.load("ticking", ebpf.PerfEvent, killAfter(d.word, held))
	if err != nil {
		return err
	}
	defer program.Close()
	possible, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("counting processors: %w", err)
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Sample: 1000, Bits: unix.PerfBitFreq}
	attr.Size = uint32(unsafe.Sizeof(attr))
	for cpu := range possible {
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
			continue // not there, or not on
		}
		if err != nil {
			return fmt.Errorf("opening a clock event on processor %d: %w", cpu, err)
		}
		l, err := link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: program, Attach: ebpf.AttachPerfEvent})
		_ = unix.Close(fd) // the link holds it
		if err != nil {
			return fmt.Errorf("attaching to the clock of processor %d (Linux 5.15 or later): %w", cpu, err)
		}
		if err := d.hold("cpu-"+strconv.Itoa(cpu), l); err != nil {
			return err
		}
	}
	if len(d.links) < 2 {
		return errors.New("opening a clock event: no processor has one")
	}
	return nil
}

func (d *Deadline) load(name string, kind ebpf.ProgramType, code asm.Instructions) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: kind, Instructions: code, License: "GPL"}) // bpf_send_signal is for such programs only
	if err != nil {
		return nil, fmt.Errorf("loading the %s program: %w", name, err)
	}
	return p, d.pin(name, p)
}

func (d *Deadline) hold(name string, l link.Link) error {
	d.links = append(d.links, l)
	held, ok := l.(interface{ FD() int })
	if !ok {
		return fmt.Errorf("attaching %s: this kernel gives no link that outlives its maker (Linux 5.15 or later)", name)
	}
	d.fds = append(d.fds, held.FD())
	return d.pin(name, l)
}

func (d *Deadline) pin(name string, what interface{ Pin(string) error }) error {
	if d.pinning == "" {
		return nil
	}
	if err := what.Pin(filepath.Join(d.pinning, name)); err != nil {
		return fmt.Errorf("pinning %s: %w", name, err)
	}
	return nil
}

// close lets go. Pins stay.
func (d *Deadline) close() {
	for _, l := range d.links {
		_ = l.Close()
	}
	if d.word != nil {
		_ = d.word.Close()
	}
}

// killAfter kills the current process from the deadline on, if it is in or below the
// cgroup held.
func killAfter(word, held *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, held.FD()),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnCurrentTaskUnderCgroup.Call(),
		asm.JNE.Imm(asm.R0, 1, "out"),
		asm.LoadMapValue(asm.R6, word.FD(), 0),
		asm.LoadMem(asm.R6, asm.R6, 0, asm.DWord),
		asm.FnKtimeGetBootNs.Call(),
		asm.JLT.Reg(asm.R0, asm.R6, "out"),
		asm.Mov.Imm(asm.R1, int32(unix.SIGKILL)),
		asm.FnSendSignal.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	}
}

// dropAfter lets a packet pass until the deadline.
func dropAfter(word *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapValue(asm.R6, word.FD(), 0),
		asm.LoadMem(asm.R6, asm.R6, 0, asm.DWord),
		asm.FnKtimeGetBootNs.Call(),
		asm.JGE.Reg(asm.R0, asm.R6, "drop"),
		asm.Mov.Imm(asm.R0, 1),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("drop"),
		asm.Return(),
	}
}

// What is said on the line to whoever wanted a deadline, with each message but an
// error's some descriptors: first that of the map, then those of the links.
const (
	more     = "more"
	done     = "done"
	perReply = 200 // descriptors; the kernel takes 253
)

// Main is the program writ-bpf: it arms a deadline for a keeper, hands it over and
// ends, so that no keeper has to hold a library that makes programs. Its arguments are
// the first deadline and the directory for pins; descriptor 3 is the cgroup's directory
// and 4 the line, a socket of packets.
func Main(args []string) error {
	const cgroup, line = 3, 4
	if len(args) != 2 {
		return errors.New("writ-bpf is started by writ-keeper")
	}
	until, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return fmt.Errorf("reading the deadline: %w", err)
	}
	d, err := Arm(cgroup, until, args[1])
	if err == nil {
		err = d.hand(line)
	}
	if err != nil {
		_, _ = unix.Write(line, []byte("error: "+err.Error()))
		os.Exit(1)
	}
	return nil
}

func (d *Deadline) hand(line int) error {
	fds := append([]int{d.word.FD()}, d.fds...)
	for len(fds) > 0 {
		n, word := min(len(fds), perReply), more
		if n == len(fds) {
			word = done
		}
		if err := unix.Sendmsg(line, []byte(word), unix.UnixRights(fds[:n]...), nil, unix.MSG_NOSIGNAL); err != nil {
			return fmt.Errorf("handing the deadline over: %w", err)
		}
		fds = fds[n:]
	}
	return nil
}
