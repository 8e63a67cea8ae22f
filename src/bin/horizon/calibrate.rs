//! `horizon calibrate`.
use crate::options::CalibrateOptions;
use horizon::base::Result;
pub fn calibrate(_: &CalibrateOptions) -> Result<()> {
    todo!()
}
