"""The papers that the methods cite."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A paper; `where` is the journal with volume and pages, or the proceedings."""

    key: str
    authors: str
    """In BibTeX's form, joined by `and`."""
    title: str
    where: str
    year: int
    link: str

    @property
    def text(self) -> str:
        """As a reference list has it."""
        names = self.authors.replace(" and others", ", et al").replace(" and ", "; ")
        return f"{names.rstrip('.')}. {self.title}. {self.where}, {self.year}. {self.link}"

    @property
    def bibtex(self) -> str:
        """One entry."""
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "note": self.where,
            "year": self.year,
            "url": self.link,
        }
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@misc{{{self.key},\n{body}}}"


REFERENCES = {
    reference.key: reference
    for reference in (
        Reference(
            key="isensee2021nnunet",
            authors="Isensee, Fabian and Jaeger, Paul F. and Kohl, Simon A. A. and Petersen, Jens and Maier-Hein, Klaus H.",
            title="nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
            where="Nature Methods 18, 203–211",
            year=2021,
            link="https://doi.org/10.1038/s41592-020-01008-z",
        ),
        Reference(
            key="isensee2024revisited",
            authors="Isensee, Fabian and Wald, Tassilo and Ulrich, Constantin and others",
            title="nnU-Net Revisited: A Call for Rigorous Validation in 3D Medical Image Segmentation",
            where="MICCAI",
            year=2024,
            link="https://arxiv.org/abs/2404.09556",
        ),
        Reference(
            key="maierhein2024metrics",
            authors="Maier-Hein, Lena and Reinke, Annika and others",
            title="Metrics reloaded: recommendations for image analysis validation",
            where="Nature Methods 21, 195–212",
            year=2024,
            link="https://doi.org/10.1038/s41592-023-02151-z",
        ),
        Reference(
            key="nikolov2021surface",
            authors="Nikolov, Stanislav and Blackwell, Sam and others",
            title="Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy: Deep Learning Algorithm "
            "Development and Validation Study",
            where="Journal of Medical Internet Research 23(7), e26151",
            year=2021,
            link="https://doi.org/10.2196/26151",
        ),
        Reference(
            key="shit2021cldice",
            authors="Shit, Suprosanna and Paetzold, Johannes C. and Sekuboyina, Anjany and others",
            title="clDice: a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation",
            where="CVPR, 16560–16569",
            year=2021,
            link="https://arxiv.org/abs/2003.07311",
        ),
        Reference(
            key="efron1987bca",
            authors="Efron, Bradley",
            title="Better Bootstrap Confidence Intervals",
            where="Journal of the American Statistical Association 82(397), 171–185",
            year=1987,
            link="https://doi.org/10.1080/01621459.1987.10478410",
        ),
        Reference(
            key="friedman1937ranks",
            authors="Friedman, Milton",
            title="The Use of Ranks to Avoid the Assumption of Normality Implicit in the Analysis of Variance",
            where="Journal of the American Statistical Association 32(200), 675–701",
            year=1937,
            link="https://doi.org/10.1080/01621459.1937.10503522",
        ),
        Reference(
            key="wilcoxon1945ranking",
            authors="Wilcoxon, Frank",
            title="Individual Comparisons by Ranking Methods",
            where="Biometrics Bulletin 1(6), 80–83",
            year=1945,
            link="https://doi.org/10.2307/3001968",
        ),
        Reference(
            key="pratt1959zeros",
            authors="Pratt, John W.",
            title="Remarks on Zeros and Ties in the Wilcoxon Signed Rank Procedures",
            where="Journal of the American Statistical Association 54(287), 655–667",
            year=1959,
            link="https://doi.org/10.1080/01621459.1959.10501526",
        ),
        Reference(
            key="holm1979multiple",
            authors="Holm, Sture",
            title="A Simple Sequentially Rejective Multiple Test Procedure",
            where="Scandinavian Journal of Statistics 6(2), 65–70",
            year=1979,
            link="https://www.jstor.org/stable/4615733",
        ),
        Reference(
            key="kerby2014simple",
            authors="Kerby, Dave S.",
            title="The Simple Difference Formula: An Approach to Teaching Nonparametric Correlation",
            where="Comprehensive Psychology 3, 11.IT.3.1",
            year=2014,
            link="https://doi.org/10.2466/11.IT.3.1",
        ),
        Reference(
            key="nadeau2003inference",
            authors="Nadeau, Claude and Bengio, Yoshua",
            title="Inference for the Generalization Error",
            where="Machine Learning 52, 239–281",
            year=2003,
            link="https://doi.org/10.1023/A:1024068626366",
        ),
        Reference(
            key="wiesenfarth2021ranking",
            authors="Wiesenfarth, Manuel and Reinke, Annika and Landman, Bennett A. and others",
            title="Methods and open-source toolkit for analyzing and visualizing challenge results",
            where="Scientific Reports 11, 2369",
            year=2021,
            link="https://doi.org/10.1038/s41598-021-82017-6",
        ),
        Reference(
            key="demsar2006comparisons",
            authors="Demšar, Janez",
            title="Statistical Comparisons of Classifiers over Multiple Data Sets",
            where="Journal of Machine Learning Research 7, 1–30",
            year=2006,
            link="https://www.jmlr.org/papers/v7/demsar06a.html",
        ),
    )
}
