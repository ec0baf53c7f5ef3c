//! Assembles the program that selects a socket.
//!
//! ```text
//! bit = which[is UDP * 65536 + local port]
//! if bit is not set: go on as without us
//! socket = sockets[is UDP * 2 + is IPv6]
//! if there is none: go on as without us
//! assign it
//! ```

use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Size in bytes of the only value of the port map: one bit per port for TCP and for UDP.
pub(super) const PORTS_SIZE: u32 = 2 * 65_536 / 8;
/// Maximum sockets: two protocols times two families.
pub(super) const MAX_SOCKETS: u32 = 4;

/// One instruction as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Registers, named by their use here.
#[derive(Clone, Copy)]
enum Register {
    /// R0: result of a call, and of the program.
    Result = 0,
    First = 1,
    Second = 2,
    Third = 3,
    /// Callee-saved registers.
    Context = 6,
    IsUdp = 7,
    Port = 8,
    Socket = 9,
    Frame = 10,
}
use Register::{Context, First, Frame, IsUdp, Port, Result, Second, Socket, Third};

// Fields of `struct bpf_sk_lookup`, as offsets.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
/// Local port, in host byte order.
const LOCAL_PORT: i16 = 60;

// Numbers of helpers (`enum bpf_func_id`).
const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

const SK_PASS: i32 = 1;
/// Stack offset of the key for map lookups.
const KEY: i16 = -4;

// Opcodes: class, operation and source (Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const LOAD_DOUBLE: u8 = 0x79;
const LOAD_IMMEDIATE: u8 = 0x18;
const STORE_WORD: u8 = 0x63;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const ADD_REGISTER: u8 = 0x0f;
const AND: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const SHIFT_RIGHT_REGISTER: u8 = 0x7f;
const OR_REGISTER: u8 = 0x4f;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Source of [`LOAD_IMMEDIATE`] that marks a map descriptor.
const MAP_DESCRIPTOR: u8 = 1;

/// The instructions assembled so far, and the jumps to the end whose offset is still missing.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    to_end: Vec<usize>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, immediate: i32) {
        let (to, from) = (to as u8, from & 0xf);
        // The halves of the byte are C bit fields.
        let registers = if cfg!(target_endian = "little") {
            from << 4 | to
        } else {
            to << 4 | from
        };
        self.instructions.push(Instruction {
            code,
            registers,
            offset,
            immediate,
        });
    }

    /// Appends an operation with an immediate operand.
    fn number(&mut self, code: u8, to: Register, number: i32) {
        self.push(code, to, 0, 0, number);
    }

    /// Appends an operation whose operand is another register.
    fn register(&mut self, code: u8, to: Register, from: Register) {
        self.push(code, to, from as u8, 0, 0);
    }

    fn load(&mut self, code: u8, to: Register, from: Register, offset: i16) {
        self.push(code, to, from as u8, offset, 0);
    }

    /// Appends a jump over `skipped` instructions, which is taken unless the register equals `number`.
    fn unless(&mut self, register: Register, number: i32, skipped: i16) {
        self.push(JUMP_IF_NOT, register, 0, skipped, number);
    }

    /// Appends a jump to the end that is taken if the register is zero.
    fn end_if_zero(&mut self, register: Register) {
        self.to_end.push(self.instructions.len());
        self.push(JUMP_IF_EQUAL, register, 0, 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.number(CALL, Result, helper);
    }

    /// Appends a lookup of the key at `Second` in a map. The result is a pointer, or zero.
    fn look_up(&mut self, map: BorrowedFd<'_>) {
        self.push(STORE_WORD, Frame, Second as u8, KEY, 0);
        self.push(LOAD_IMMEDIATE, First, MAP_DESCRIPTOR, 0, map.as_raw_fd());
        // This is the upper half of the immediate value.
        self.push(0, Result, 0, 0, 0);
        self.register(MOVE_REGISTER, Second, Frame);
        self.number(ADD, Second, KEY.into());
        self.call(MAP_LOOKUP_ELEM);
        self.end_if_zero(Result);
    }

    fn end(mut self) -> Vec<Instruction> {
        let end = self.instructions.len();
        for at in self.to_end.clone() {
            // The program is far shorter than the range of a jump.
            self.instructions[at].offset = i16::try_from(end - at - 1).unwrap_or(i16::MAX);
        }
        self.number(MOVE, Result, SK_PASS);
        self.push(EXIT, Result, 0, 0, 0);
        self.instructions
    }
}

/// Assembles the program for a map of ports and a map of sockets.
pub(super) fn assemble(ports: BorrowedFd<'_>, sockets: BorrowedFd<'_>) -> Vec<Instruction> {
    const PORTS_OF_WORD: i32 = 6;
    const WORDS_OF_PROTOCOL: i32 = 10;
    const BYTES_OF_WORD: i32 = 3;
    let mut a = Assembler::default();
    a.register(MOVE_REGISTER, Context, First);
    a.load(LOAD_WORD, Port, Context, LOCAL_PORT);
    a.load(LOAD_WORD, First, Context, PROTOCOL);
    a.number(MOVE, IsUdp, 0);
    a.unless(First, libc::IPPROTO_UDP, 1);
    a.number(MOVE, IsUdp, 1);

    a.number(MOVE, Second, 0);
    a.look_up(ports);
    // This loads the word with the port's bit. The verifier requires proof that it is inside the value.
    a.register(MOVE_REGISTER, First, Port);
    a.number(SHIFT_RIGHT, First, PORTS_OF_WORD);
    a.register(MOVE_REGISTER, Second, IsUdp);
    a.number(SHIFT_LEFT, Second, WORDS_OF_PROTOCOL);
    a.register(OR_REGISTER, First, Second);
    a.number(SHIFT_LEFT, First, BYTES_OF_WORD);
    a.number(AND, First, 0x3ff8);
    a.register(ADD_REGISTER, Result, First);
    a.load(LOAD_DOUBLE, First, Result, 0);
    a.register(MOVE_REGISTER, Second, Port);
    a.number(AND, Second, 63);
    a.register(SHIFT_RIGHT_REGISTER, First, Second);
    a.number(AND, First, 1);
    a.end_if_zero(First);

    a.register(MOVE_REGISTER, Second, IsUdp);
    a.number(SHIFT_LEFT, Second, 1);
    a.load(LOAD_WORD, First, Context, FAMILY);
    a.unless(First, libc::AF_INET6, 1);
    a.number(ADD, Second, 1);
    a.look_up(sockets);
    a.register(MOVE_REGISTER, Socket, Result);
    a.register(MOVE_REGISTER, First, Context);
    a.register(MOVE_REGISTER, Second, Socket);
    a.number(MOVE, Third, 0);
    a.call(SK_ASSIGN);
    a.register(MOVE_REGISTER, First, Socket);
    a.call(SK_RELEASE);
    a.end()
}
