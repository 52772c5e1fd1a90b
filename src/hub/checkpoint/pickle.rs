//! A pickle interpreter that builds data and executes nothing.
//!
//! A pickle is a program for a stack machine. This interpreter implements the opcodes that
//! `torch.save` and `torch.jit.save` write (documented in Python's `pickletools`). The functions
//! and classes of a state dict are known by name ([`Global`]) and never called: their calls become
//! nodes. Every other name is refused.
//!
//! Work and memory are bounded by the length of the input: values are indices into an arena, so
//! that a copy is one index, and no function recurses.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::DType;

/// Index of a [`Node`].
pub(super) type Id = usize;

/// Accepted Python names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// A class of a TorchScript archive.
    ScriptClass,
    /// A function that creates an attribute of such a class other than a tensor.
    ScriptValue,
    /// Element type of a storage; `None` for types that candle lacks.
    Storage(Option<DType>),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch.jit._pickle", _) | ("torch", "device") => Self::ScriptValue,
            ("torch", "FloatStorage") => Self::Storage(Some(DType::F32)),
            ("torch", "DoubleStorage") => Self::Storage(Some(DType::F64)),
            ("torch", "HalfStorage") => Self::Storage(Some(DType::F16)),
            ("torch", "BFloat16Storage") => Self::Storage(Some(DType::BF16)),
            ("torch", "ByteStorage" | "BoolStorage") => Self::Storage(Some(DType::U8)),
            ("torch", "ShortStorage") => Self::Storage(Some(DType::I16)),
            ("torch", "IntStorage") => Self::Storage(Some(DType::I32)),
            ("torch", "LongStorage") => Self::Storage(Some(DType::I64)),
            ("torch", "CharStorage" | "ComplexFloatStorage" | "ComplexDoubleStorage") => {
                Self::Storage(None)
            }
            _ if module == "__torch__" || module.starts_with("__torch__.") => Self::ScriptClass,
            _ => return None,
        })
    }
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(Vec<u8>),
    Float(f64),
    Text(Arc<str>),
    /// Bytes, whose content is ignored.
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// Reference to a storage: the tuple that PyTorch passes to `persistent_load`.
    Persistent(Id),
    /// `callable(*args)`, for the tensor functions.
    Call(Global, Id),
    /// An instance of a [`Global::ScriptClass`], and its state once `BUILD` has set it.
    Object(Option<Id>),
}

/// A parsed pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    pub root: Id,
    /// Length of the pickle in bytes.
    pub len: usize,
}

impl Pickle {
    /// Interprets the pickle at the beginning of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            input: bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine
            .run()
            .map_err(|message| format!("{message} (byte {} of the pickle)", machine.at))?;
        Ok(Self {
            nodes: machine.nodes,
            root,
            len: machine.at,
        })
    }

    pub fn node(&self, id: Id) -> &Node {
        // Ids are only ever handed out for nodes that exist.
        self.nodes.get(id).unwrap_or(&Node::None)
    }

    pub fn text(&self, id: Id) -> Option<&Arc<str>> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Returns a non-negative integer.
    pub fn index(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// Returns a tuple of at most `limit` non-negative integers. The limit matters, because many
    /// tensors may refer to the same long tuple.
    pub fn indices(&self, id: Id, limit: usize) -> Option<Vec<usize>> {
        let items = self.tuple(id).filter(|items| items.len() <= limit)?;
        items.iter().map(|id| self.index(*id)).collect()
    }
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let opcode = self.byte()?;
            match opcode {
                // PROTO
                0x80 => match self.byte()? {
                    2..=5 => {}
                    other => return Err(format!("pickle protocol {other} is not supported")),
                },
                // FRAME: only a hint
                0x95 => {
                    self.take(8)?;
                }
                // STOP
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                // POP, POP_MARK, DUP
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.pop_to_mark()?;
                }
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'N' => self.push(Node::None),
                0x88 => self.push(Node::Bool(true)),
                0x89 => self.push(Node::Bool(false)),
                b'K' | b'M' | b'J' | 0x8a | b'G' => self.number(opcode)?,
                b'X' | 0x8c | 0x8d | b'U' | b'T' | b'B' | b'C' => self.string(opcode)?,
                b')' | b't' | 0x85..=0x87 => self.tuple(opcode)?,
                b']' => self.push(Node::List(Vec::new())),
                b'}' => self.push(Node::Dict(Vec::new())),
                b'a' | b'e' => self.append(opcode)?,
                b's' | b'u' => self.set_items(opcode)?,
                b'q' | b'r' | 0x94 | b'h' | b'j' => self.memoize(opcode)?,
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.global(module, name)?;
                }
                // STACK_GLOBAL
                0x93 => {
                    let name = self.pop_text()?;
                    let module = self.pop_text()?;
                    self.global(&module, &name)?;
                }
                // BINPERSID
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id));
                }
                b'R' => self.reduce()?,
                // NEWOBJ
                0x81 => self.new_object()?,
                b'b' => self.build()?,
                other => return Err(format!("pickle opcode 0x{other:02x} is not supported")),
            }
        }
    }

    fn number(&mut self, opcode: u8) -> Step<()> {
        let node = match opcode {
            b'K' => Node::Int(self.byte()?.into()),
            b'M' => Node::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Node::Int(i32::from_le_bytes(self.array()?).into()),
            // Big-endian, unlike everything else.
            b'G' => Node::Float(f64::from_be_bytes(self.array()?)),
            // LONG1: two's complement of so many bytes
            _ => {
                let len = self.byte()?.into();
                let bytes = self.take(len)?;
                if len > 8 {
                    Node::Long(bytes.to_vec())
                } else {
                    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                    let mut word = [if negative { 0xff } else { 0 }; 8];
                    for (to, from) in word.iter_mut().zip(bytes) {
                        *to = *from;
                    }
                    Node::Int(i64::from_le_bytes(word))
                }
            }
        };
        self.push(node);
        Ok(())
    }

    fn string(&mut self, opcode: u8) -> Step<()> {
        let len = match opcode {
            // SHORT_BINUNICODE, SHORT_BINSTRING, SHORT_BINBYTES
            0x8c | b'U' | b'C' => u64::from(self.byte()?),
            0x8d => u64::from_le_bytes(self.array()?),
            _ => u64::from(u32::from_le_bytes(self.array()?)),
        };
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        let node = if matches!(opcode, b'B' | b'C') {
            Node::Bytes
        } else {
            let text = std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
            Node::Text(text.into())
        };
        self.push(node);
        Ok(())
    }

    fn tuple(&mut self, opcode: u8) -> Step<()> {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.pop_to_mark()?,
            _ => {
                let mut items = Vec::new();
                for _ in 0x85..=opcode {
                    items.push(self.pop()?);
                }
                items.reverse();
                items
            }
        };
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn append(&mut self, opcode: u8) -> Step<()> {
        let items = if opcode == b'e' {
            self.pop_to_mark()?
        } else {
            vec![self.pop()?]
        };
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            _ => return Err("an element is appended to what is no list".to_owned()),
        }
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Step<()> {
        let items = if opcode == b'u' {
            self.pop_to_mark()?
        } else {
            let value = self.pop()?;
            vec![self.pop()?, value]
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a dict gets a key without a value".to_owned());
        }
        match self.top_node()? {
            Node::Dict(dict) => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            _ => return Err("an item is set in what is no dict".to_owned()),
        }
        Ok(())
    }

    fn memoize(&mut self, opcode: u8) -> Step<()> {
        let key = match opcode {
            b'q' | b'h' => u32::from(self.byte()?),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            // MEMOIZE
            _ => u32::try_from(self.memo.len()).map_err(|_| "too many memos")?,
        };
        if matches!(opcode, b'h' | b'j') {
            let id = self.memo.get(&key);
            self.stack
                .push(*id.ok_or_else(|| format!("memo {key} was never stored"))?);
        } else {
            let id = self.top()?;
            self.memo.insert(key, id);
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let global = Global::find(module, name).ok_or_else(|| {
            format!(
                "it refers to {:?}, which a checkpoint of plain tensors does not need",
                brief(&format!("{module}.{name}"))
            )
        })?;
        self.push(Node::Global(global));
        Ok(())
    }

    fn reduce(&mut self) -> Step<()> {
        let args = self.pop()?;
        let callable = self.pop()?;
        let global = match self.nodes.get(callable) {
            Some(Node::Global(global)) => *global,
            _ => return Err("it calls what is no function".to_owned()),
        };
        let node = match (global, self.nodes.get(args)) {
            (Global::OrderedDict, Some(Node::Tuple(items))) if items.is_empty() => {
                Node::Dict(Vec::new())
            }
            (
                Global::RebuildTensor | Global::RebuildParameter | Global::ScriptValue,
                Some(Node::Tuple(_)),
            ) => Node::Call(global, args),
            _ => return Err(format!("{global:?} is called with arguments it never has")),
        };
        self.push(node);
        Ok(())
    }

    fn new_object(&mut self) -> Step<()> {
        let args = self.pop()?;
        let class = self.pop()?;
        match (self.nodes.get(class), self.nodes.get(args)) {
            (Some(Node::Global(Global::ScriptClass)), Some(Node::Tuple(items)))
                if items.is_empty() =>
            {
                self.push(Node::Object(None));
                Ok(())
            }
            _ => Err("it makes an object of what is no class of a TorchScript archive".to_owned()),
        }
    }

    /// Sets the state of an object. The attributes of a dict, such as `_metadata` of a state dict,
    /// are ignored; a value of another kind must not have any.
    fn build(&mut self) -> Step<()> {
        let state = self.pop()?;
        match self.top_node()? {
            Node::Dict(_) => Ok(()),
            Node::Object(built @ None) => {
                *built = Some(state);
                Ok(())
            }
            _ => Err("it sets attributes of what is no dict".to_owned()),
        }
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn top(&self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(id) if self.stack.len() > floor => Ok(*id),
            _ => Err("the stack is empty".to_owned()),
        }
    }

    fn pop(&mut self) -> Step<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn top_node(&mut self) -> Step<&mut Node> {
        let id = self.top()?;
        self.nodes
            .get_mut(id)
            .ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_text(&mut self) -> Step<Arc<str>> {
        let id = self.pop()?;
        match self.nodes.get(id) {
            Some(Node::Text(text)) => Ok(Arc::clone(text)),
            _ => Err("a name is no text".to_owned()),
        }
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark on the stack")?;
        // `pop` never goes below a mark.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn byte(&mut self) -> Step<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| ended())
    }

    fn take(&mut self, len: usize) -> Step<&'a [u8]> {
        let rest: &'a [u8] = self.input.get(self.at..).unwrap_or_default();
        let bytes = rest.get(..len).ok_or_else(ended)?;
        self.at += len;
        Ok(bytes)
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest: &'a [u8] = self.input.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|b| *b == b'\n').ok_or_else(ended)?;
        let line = self.take(len)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "a name is not UTF-8".to_owned())
    }
}

fn ended() -> String {
    "it ends too early".to_owned()
}

/// Shortens a name from a file for messages.
pub(super) fn brief(name: &str) -> &str {
    match name.char_indices().nth(100) {
        Some((end, _)) => name.get(..end).unwrap_or(name),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(bytes: &[u8]) -> Result<Node, String> {
        Pickle::parse(bytes).map(|pickle| pickle.node(pickle.root).clone())
    }

    #[test]
    fn numbers_and_texts() {
        assert_eq!(root(b"\x80\x02K\x07."), Ok(Node::Int(7)));
        assert_eq!(root(b"\x80\x02M\x01\x02."), Ok(Node::Int(0x201)));
        assert_eq!(root(b"\x80\x02J\xfe\xff\xff\xff."), Ok(Node::Int(-2)));
        assert_eq!(root(b"\x80\x02\x8a\x02\x00\x80."), Ok(Node::Int(-32768)));
        assert_eq!(root(b"\x80\x02\x8a\x00."), Ok(Node::Int(0)));
        assert_eq!(root(b"\x80\x02G?\xf8\0\0\0\0\0\0."), Ok(Node::Float(1.5)));
        assert_eq!(
            root("\u{80}".as_bytes()).map_err(|e| e.contains("opcode 0xc2")),
            Err(true)
        );
        assert_eq!(root(b"\x80\x02X\x02\0\0\0hi."), Ok(Node::Text("hi".into())));
    }

    #[test]
    fn unknown_functions_are_refused_by_name() {
        for program in [
            &b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."[..],
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
        ] {
            let error = Pickle::parse(program).expect_err("a refusal");
            assert!(error.contains("\"os.system\""), "{error}");
        }
    }

    #[test]
    fn a_mark_protects_what_lies_below() {
        // An empty list, a mark, then an append that would need the list.
        let error = Pickle::parse(b"\x80\x02](K\x01a.").expect_err("a refusal");
        assert!(error.contains("stack is empty"), "{error}");
    }

    #[test]
    fn repeated_doubling_costs_nothing() {
        // A tuple of itself twice, sixty times: 2^60 elements if it were copied.
        let mut program = b"\x80\x02)".to_vec();
        for _ in 0..60 {
            program.extend_from_slice(b"2\x86");
        }
        program.push(b'.');
        assert!(Pickle::parse(&program).is_ok());
    }
}
