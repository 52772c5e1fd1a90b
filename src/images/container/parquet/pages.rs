//! Pages of a column chunk, whose claims are checked before they are decompressed.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::SerializedPageReader;

use super::page_header::{PageHeader, PageKind};

/// Largest accepted page in bytes, decompressed. Writers that put 1024 images into a page before
/// they look at its size stay below it with images of 1 MiB.
pub(super) const MAX_PAGE: u64 = 1 << 30;
/// Largest accepted header of a page in bytes. Headers may have the least and the largest value.
const MAX_HEADER: u64 = 1 << 24;
/// Largest accepted number of values of a dictionary, for each of which memory is allocated.
const MAX_DICTIONARY: u32 = 1 << 22;

/// Reader of pages that verifies each header before the crate's reader follows it.
pub(super) struct CheckedPages {
    inner: SerializedPageReader<File>,
    file: Arc<File>,
    compression: Compression,
    /// Place of the next header.
    offset: u64,
    /// Bytes of the chunk from there on.
    remaining: u64,
    /// The next header, if it was read.
    next: Option<PageHeader>,
}

impl CheckedPages {
    /// Opens a chunk of a file with `file_len` bytes.
    ///
    /// # Errors
    /// If the chunk is not within the file, or compressed by an unsupported method.
    pub(super) fn open(
        file: &Arc<File>,
        file_len: u64,
        chunk: &ColumnChunkMetaData,
        rows: usize,
    ) -> Result<Self> {
        let start = chunk
            .dictionary_page_offset()
            .unwrap_or_else(|| chunk.data_page_offset());
        let within = |start: i64, len: i64| {
            let (start, len) = (u64::try_from(start).ok()?, u64::try_from(len).ok()?);
            let end = start.checked_add(len)?;
            (end <= file_len).then_some((start, len))
        };
        let (offset, remaining) = within(start, chunk.compressed_size())
            .ok_or_else(|| general("a column is said to be outside of the file"))?;
        let compression = chunk.compression();
        match compression {
            Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::ZSTD(_)
            | Compression::LZ4_RAW => {}
            other => {
                return Err(general(format!(
                    "pages compressed by {other} are not supported: write the file with snappy or \
                     zstd"
                )));
            }
        }
        Ok(Self {
            inner: SerializedPageReader::new(Arc::clone(file), chunk, rows, None)?,
            file: Arc::clone(file),
            compression,
            offset,
            remaining,
            next: None,
        })
    }

    /// Reads and verifies the next header; `None` at the end of the chunk.
    fn header(&mut self) -> Result<Option<PageHeader>> {
        if self.next.is_none() && self.remaining > 0 {
            let mut file = &*self.file;
            file.seek(SeekFrom::Start(self.offset))?;
            let reader = BufReader::new(file.take(MAX_HEADER.min(self.remaining)));
            let header = PageHeader::read(reader).ok_or_else(|| general("a malformed page"))?;
            self.verify(&header)?;
            self.next = Some(header);
        }
        Ok(self.next)
    }

    fn verify(&self, header: &PageHeader) -> Result<()> {
        let within = header
            .len
            .checked_add(header.compressed)
            .is_some_and(|len| len <= self.remaining);
        if !within {
            return Err(general("a page is said to end beyond its column"));
        }
        if header.uncompressed > MAX_PAGE {
            return Err(general(format!(
                "a page of {} bytes is larger than the limit of {MAX_PAGE}: write the file with \
                 smaller pages",
                header.uncompressed
            )));
        }
        let dictionary = header.kind == PageKind::Dictionary;
        if dictionary && header.values > MAX_DICTIONARY {
            return Err(general(format!(
                "a dictionary of {} values has more than {MAX_DICTIONARY}",
                header.values
            )));
        }
        // The most to which each method expands a byte; zstd has no such bound.
        let expansion = match self.compression {
            Compression::SNAPPY => 32,
            Compression::LZ4_RAW => 256,
            Compression::GZIP(_) => 1032,
            _ => return Ok(()),
        };
        let most = header
            .compressed
            .saturating_add(64)
            .saturating_mul(expansion);
        if header.uncompressed > most {
            return Err(general("a page is said to be larger than it can be"));
        }
        if matches!(self.compression, Compression::GZIP(_)) {
            self.verify_gzip(header)?;
        }
        Ok(())
    }

    /// Verifies that a page is not larger than stated: the crate's gzip reader has no limit.
    fn verify_gzip(&self, header: &PageHeader) -> Result<()> {
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.offset + header.len))?;
        let compressed = BufReader::new(file.take(header.compressed));
        let mut page = MultiGzDecoder::new(compressed).take(header.uncompressed + 1);
        // Levels before the values are not compressed in the second version, and then it is no
        // gzip stream from its beginning.
        if header.kind == PageKind::DataV2 {
            return Err(general(
                "pages of version 2 compressed by gzip are not supported: write the file with \
                 snappy or zstd",
            ));
        }
        if io::copy(&mut page, &mut io::sink())? > header.uncompressed {
            return Err(general("a page is larger than its header states"));
        }
        Ok(())
    }

    /// Goes behind the page of the header.
    fn pass(&mut self, header: &PageHeader) {
        let len = header.len + header.compressed;
        self.offset += len;
        self.remaining -= len.min(self.remaining);
        self.next = None;
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(header) = self.header()? else {
            return Ok(None);
        };
        let page = self.inner.get_next_page()?;
        self.pass(&header);
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.header()?.map(|header| PageMetadata {
            num_rows: None,
            num_levels: (header.kind != PageKind::Dictionary).then_some(header.values as usize),
            is_dict: header.kind == PageKind::Dictionary,
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        if let Some(header) = self.header()? {
            self.inner.skip_next_page()?;
            self.pass(&header);
        }
        Ok(())
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

fn general(message: impl Into<String>) -> ParquetError {
    ParquetError::General(message.into())
}
